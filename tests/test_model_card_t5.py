"""Proves that a run's card is what the Hub reads, that its code runs, and that what it says of the
run and of T5's own scores is so."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from arguments_t5 import PRE_TRAINING
from flags import changed_settings, parse_flags
from model_card_t5 import Sample, Score, write_model_card

LOG = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}]


def write(folder: Path, **more) -> str:
    settings = {
        "title": "A T5",
        "summary": "It reads.",
        "metrics": {"eval_accuracy": 87.5, "eval_runtime": 3.0, "train_loss": 1.0},
        "log_history": LOG,
        "tags": ("t5",),
    }
    write_model_card(folder, **{**settings, **more})
    return (folder / "README.md").read_text()


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return code


def test_the_hub_reads_the_metadata(tmp_path):
    score = {"benchmark": "glue", "task": "mrpc", "split": "validation", "metric": "accuracy"}
    write(
        tmp_path,
        scores=[Score(**score, value=87.5, hub_path="nyu-mll/glue", hub_name="mrpc")],
        datasets=["nyu-mll/glue"],
        base_model="google/t5-v1_1-base",
        language="en",
    )
    data = ModelCard.load(tmp_path / "README.md").data
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("nyu-mll/glue", "mrpc")
    assert (result.metric_type, result.metric_value) == ("accuracy", 87.5)
    assert data.base_model == "google/t5-v1_1-base" and data.language == "en"
    assert data.datasets == ["nyu-mll/glue"] and data.library_name == "transformers"


def test_a_kind_of_task_is_named_where_the_hub_has_one(tmp_path):
    score = Score("translation", "wmt16_en_ro", "validation", "bleu", 28.0)
    write(tmp_path, scores=[score])
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "translation"


def test_t5s_own_scores_stand_beside(tmp_path):
    scores = [
        Score("glue", "mrpc", "validation", "accuracy", 87.54),
        Score("glue", "mrpc", "test", "accuracy", 1.0),
        Score("own", "mrpc", "validation", "accuracy", 1.0),
    ]
    card = write(tmp_path, scores=scores)
    rows = [line for line in card.splitlines() if line.startswith("| mrpc")]
    assert rows == ["| mrpc accuracy | **87.5** | 88.9 | 86.6 | 87.5 | 89.9 | 90.0 | 90.4 |"]
    assert "validation sets" in card and "1910.10683" in card
    assert "1910.10683" not in write(tmp_path, scores=scores[2:])


def test_predictions_cannot_break_the_table(tmp_path):
    card = write(tmp_path, samples=[Sample("a | b\n<c> &lt;", "*yes*", "w" * 500)])
    (row,) = [line for line in card.splitlines() if line.startswith("| a")]
    assert row == rf"| a \| b \<c\> \&lt; | \*yes\* | {'w' * 240} ... |"


def test_settings_are_those_that_differ(tmp_path):
    words = ["--train_file", "a.txt", "--config_name", "t5-v1_1-small", "--bf16", "False"]
    _, _, args = parse_flags(PRE_TRAINING, [*words, "--output_dir", str(tmp_path), "--seed", "42"])
    changed = changed_settings(PRE_TRAINING, args.given)
    assert changed["train_file"] == "a.txt" and changed["bf16"] is False
    assert changed["learning_rate"] is not None  # the preset's, which --optim implies
    assert not {"seed", "output_dir", "objective", "optim", "lr_scheduler_kwargs"} & set(changed)
    card = write(tmp_path, settings=changed)
    assert "| `bf16` | `False` |" in card and "--config run.yaml" in card
    odd = write(tmp_path, settings={"run_name": "a|b\n`c`"})
    assert r"| `run_name` | `` a\|b `c` `` |" in odd


def test_a_run_without_a_log_has_no_picture(tmp_path):
    assert "Curves" not in write(tmp_path, log_history=[])
    assert "![" in write(tmp_path) and (tmp_path / "curves.png").exists()


def test_the_code_of_a_runs_card_runs(whole_run, monkeypatch, capsys):
    card = (whole_run / "README.md").read_text()
    assert "<extra_id_0>" in code_of(card) and "Blanks it filled in" in card
    assert "=\\>" in card and "3 documents" not in card and "400 documents" in card
    monkeypatch.chdir(whole_run)
    exec(code_of(card), {})
    assert capsys.readouterr().out.startswith("<pad>")


def test_the_code_of_an_adapters_card_runs(whole_run, tokenizer, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    from lora_t5 import with_adapters
    from model_t5 import load_model

    model = load_model(name_or_path=str(whole_run), tokenizer=tokenizer, dropout_rate=0.0)
    adapters = {"rank": 2, "alpha": None, "dropout_rate": 0.0, "target_modules": "q,v", "seed": 0}
    with_adapters(model, **adapters).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    card = write(tmp_path, try_it_on="the cat sees")
    assert "AutoPeftModelForSeq2SeqLM" in card
    monkeypatch.chdir(tmp_path)
    exec(code_of(card), {})
    assert "<pad>" not in capsys.readouterr().out
