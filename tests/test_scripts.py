"""Proves the way from raw text to scores on a small language: both scripts run, resume, leave the
files the contract names, and answer every mistake with exit code 2, one message and no rubbish."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_sentences
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import fine_tune_t5
import pre_train_t5
from errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"]
TINY += ["--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(make_sentences(400)) + "\n")
    return path


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory) -> Path:
    """Does the sentence have a cat? 200 + 40 + 30 rows, the last ten of them without a label."""
    folder = tmp_path_factory.mktemp("task")
    sentences = make_sentences(270, seed=1)
    rows = [{"idx": i, "sentence": s, "label": int("cat" in s)} for i, s in enumerate(sentences)]
    parts = {"train": rows[:200], "validation": rows[200:240], "test": rows[240:]}
    for split, part in parts.items():
        path = folder / f"cat.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
    entry = {
        "prefix": "cat:",
        "text_column_name": "sentence",
        "label_column_name": "label",
        "labels": {0: "no", 1: "yes"},
        "metric_to_optimize": "accuracy",
        "metric_names": ["accuracy", "f1"],
    }
    (folder / "cat.yaml").write_text(yaml.safe_dump(entry))
    return folder


def pre_training_words(folder: Path, *, text_file: Path, tokenizer_dir: Path, steps: int = 6):
    return [
        *TINY,
        *("--train_file", str(text_file), "--tokenizer_name", str(tokenizer_dir)),
        *("--tokenized_dataset_dir", str(folder / "tokens"), "--output_dir", str(folder / "out")),
        *("--input_seq_length", "32", "--per_device_train_batch_size", "4"),
        *("--max_steps", str(steps), "--save_steps", "3", "--eval_steps", "3"),
        *("--logging_steps", "1"),
    ]


def fine_tuning_words(folder: Path, *, task_dir: Path, model: Path):
    return [
        *("--use_cpu", "--bf16", "False", "--model_name_or_path", str(model)),
        *("--task_file", str(task_dir / "cat.yaml"), "--data_dir", str(task_dir)),
        *("--output_dir", str(folder), "--num_train_epochs", "2", "--optim", "adamw_rms"),
    ]


@pytest.fixture(scope="module")
def pre_trained(tmp_path_factory, text_file, tokenizer_dir) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("pre")
    words = pre_training_words(folder, text_file=text_file, tokenizer_dir=tokenizer_dir)
    return folder / "out", pre_train_t5.main(words)


def read_log(folder: Path) -> list[dict]:
    return json.loads((folder / "log_history.json").read_text())


def test_the_logged_loss_is_without_z_loss(pre_trained):
    first = next(entry for entry in read_log(pre_trained[0]) if "loss" in entry)
    # A vocabulary of 256: ln 256 is 5.5, and 1e-4 of its square is what the penalty begins with.
    assert first["z_loss"] == pytest.approx(1e-4 * 5.5**2, rel=0.5)
    assert first["loss"] == pytest.approx(5.5, abs=0.5)


def test_no_step_is_evaluated_twice(pre_trained):
    evaluated = [entry["step"] for entry in read_log(pre_trained[0]) if "eval_loss" in entry]
    assert evaluated == [3, 6]


def test_pre_training_leaves_what_the_contract_names(pre_trained):
    folder, metrics = pre_trained
    assert metrics["train_steps"] == 6 and metrics["eval_loss"] > 0
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "config.json", "generation_config.json", "run.yaml"}
    assert names >= {"tokenizer.json", "README.md", "curves.png", "all_results.json"}
    assert {"checkpoint-3", "checkpoint-6"} <= names
    assert json.loads((folder / "all_results.json").read_text()) == metrics
    card = (folder / "README.md").read_text()
    assert f"| eval_loss | {metrics['eval_loss']:.4g} |" in card and "curves.png" in card
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a cat").input_ids[-1] == 1
    assert model.config.dropout_rate == 0.0


def test_interrupted_training_goes_on_to_the_same_weights(
    pre_trained, tmp_path, text_file, tokenizer_dir
):
    class Interrupted(Exception):
        pass

    words = pre_training_words(tmp_path, text_file=text_file, tokenizer_dir=tokenizer_dir)
    original = pre_train_t5.T5Trainer.training_step

    def stop_at_fifth(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise Interrupted
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pre_train_t5.T5Trainer, "training_step", stop_at_fifth)
        with pytest.raises(Interrupted):
            pre_train_t5.main(words)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    metrics = pre_train_t5.main(words)
    folder, whole = pre_trained
    assert metrics["eval_loss"] == whole["eval_loss"]
    measured = [entry for entry in read_log(tmp_path / "out") if "tokens_seen" in entry]
    assert [entry["tokens_seen"] for entry in measured] == [4 * 32 * step for step in range(1, 7)]
    assert all(entry["waiting_percent"] < 100 for entry in measured)
    same = (path / "model.safetensors" for path in (folder, tmp_path / "out"))
    assert next(same).read_bytes() == next(same).read_bytes()


def test_two_workers_see_the_same_batches(pre_trained, tmp_path, text_file, tokenizer_dir):
    words = pre_training_words(tmp_path, text_file=text_file, tokenizer_dir=tokenizer_dir)
    metrics = pre_train_t5.main([*words, "--dataloader_num_workers", "2"])
    assert metrics["eval_loss"] == pre_trained[1]["eval_loss"]
    assert metrics["train_loss"] == pre_trained[1]["train_loss"]


def test_a_run_with_other_settings_is_not_gone_on_with(pre_trained, text_file, tokenizer_dir):
    folder = pre_trained[0].parent
    words = pre_training_words(folder, text_file=text_file, tokenizer_dir=tokenizer_dir)
    with pytest.raises(UserError, match=r"learning_rate was \S+ and is 0.1.*Give another"):
        pre_train_t5.main([*words, "--learning_rate", "0.1"])


def test_nothing_held_out_is_trained_without_evaluation(tmp_path, text_file, tokenizer_dir):
    words = pre_training_words(tmp_path, text_file=text_file, tokenizer_dir=tokenizer_dir, steps=1)
    metrics = pre_train_t5.main([*words, "--validation_split_percentage", "0"])
    assert metrics["train_steps"] == 1 and "eval_loss" not in metrics


def test_a_folder_of_a_data_set_is_text_too(tmp_path, tokenizer_dir):
    import datasets

    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": make_sentences(60)}).save_to_disk(folder)
    words = pre_training_words(tmp_path, text_file=folder, tokenizer_dir=tokenizer_dir, steps=1)
    assert pre_train_t5.main(words)["train_steps"] == 1


def test_run_yaml_repeats_the_run(pre_trained, tmp_path):
    folder, metrics = pre_trained
    again = pre_train_t5.main([str(folder / "run.yaml"), "--output_dir", str(tmp_path / "again")])
    assert again["eval_loss"] == metrics["eval_loss"]


def test_fine_tuning_scores_and_writes_predictions(pre_trained, task_dir, tmp_path):
    words = fine_tuning_words(tmp_path, task_dir=task_dir, model=pre_trained[0])
    metrics = fine_tune_t5.main(words)
    assert {"eval_accuracy", "eval_f1", "test_accuracy", "test_loss"} <= set(metrics)
    for split, num_rows in (("validation", 40), ("test", 30)):
        path = tmp_path / "predictions" / f"cat.{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == num_rows
        assert rows[0]["input"].startswith("cat: ")
        right = [row["prediction"] == row["target"] for row in rows]
        prefix = "eval" if split == "validation" else "test"
        assert metrics[f"{prefix}_accuracy"] == pytest.approx(100 * sum(right) / num_rows)
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path).config.dropout_rate == 0.1


def test_hidden_test_labels_are_predicted_and_not_scored(pre_trained, task_dir, tmp_path):
    hidden = tmp_path / "hidden.jsonl"
    rows = [{"idx": i, "sentence": s} for i, s in enumerate(make_sentences(5, seed=2))]
    hidden.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = fine_tuning_words(tmp_path / "out", task_dir=task_dir, model=pre_trained[0])
    metrics = fine_tune_t5.main([*words, "--do_train=False", "--test_file", str(hidden)])
    assert not {"test_accuracy", "test_loss"} & set(metrics)
    path = tmp_path / "out" / "predictions" / "cat.test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["idx"] for row in rows] == list(range(5)) and rows[0]["label"] is None


def test_show_examples_loads_no_model(tmp_path, text_file, tokenizer_dir, task_dir, capsys):
    words = pre_training_words(tmp_path, text_file=text_file, tokenizer_dir=tokenizer_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pre_train_t5, "start_model", None)
        assert pre_train_t5.main([*words, "--show_examples", "2"]) == {}
        shown = capsys.readouterr().out
        assert "example 1 targets" in shown and "<extra_id_0>" in shown and "unknown" in shown
        patch.setattr(fine_tune_t5, "start_model", None)
        words = fine_tuning_words(tmp_path, task_dir=task_dir, model=tokenizer_dir)
        assert fine_tune_t5.main([*words, "--show_examples", "1"]) == {}
        shown = capsys.readouterr().out
        assert "text cat: " in shown and "truncated" in shown


def run(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / program), *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, cwd=cwd
    )


def test_exit_code_2_is_one_message_and_no_traceback(tmp_path):
    done = run("pre_train_t5.py", "--train_file", "none*.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-4:]
    assert message[0] == "pre_train_t5.py: 3 problems:"  # the tokenizer, the text and the model
    assert [line[:5] for line in message[1:]] == ["  1. ", "  2. ", "  3. "]


def test_without_network_the_defaults_say_what_to_do(tmp_path):
    done = run("fine_tune_t5.py", "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "google/t5-v1_1-base" in done.stderr and "--model_name_or_path" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("no_such_*.txt", None, "--train_file"),
        ("a.txt", b"", "empty"),
        ("a.jsonl", b'{"other": "x"}\n', "no column 'text'"),
        ("a.txt", b"good\n\xff\xfe bad\n", "line 2"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2"),
    ],
)
def test_bad_text_gets_one_sentence(tmp_path, tokenizer_dir, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    words = pre_training_words(
        tmp_path, text_file=tmp_path / name, tokenizer_dir=tokenizer_dir, steps=1
    )
    with pytest.raises(UserError, match=sentence):
        pre_train_t5.main(words)
    leftovers = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != name]
    assert leftovers == []


def test_a_label_outside_the_table(tmp_path, task_dir, pre_trained):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"sentence": "a cat", "label": 1}\n{"sentence": "a dog", "label": 7}\n')
    words = fine_tuning_words(tmp_path / "out", task_dir=task_dir, model=pre_trained[0])
    with pytest.raises(UserError, match=r"bad.jsonl, row 2: .*7"):
        fine_tune_t5.main([*words, "--train_file", str(bad)])


def test_a_metric_the_task_has_not(tmp_path, task_dir, pre_trained):
    words = fine_tuning_words(tmp_path / "out", task_dir=task_dir, model=pre_trained[0])
    with pytest.raises(UserError, match="has loss, token_accuracy, accuracy, f1"):
        fine_tune_t5.main([*words, "--metric_for_best_model", "acc"])


def test_an_output_folder_that_is_a_file(tmp_path, task_dir, pre_trained):
    (tmp_path / "out").touch()
    words = fine_tuning_words(tmp_path / "out", task_dir=task_dir, model=pre_trained[0])
    with pytest.raises(UserError, match="--output_dir .* cannot be written"):
        fine_tune_t5.main(words)


@pytest.mark.parametrize("task", ["sst2", "mrpc", "stsb"])
def test_real_glue_rows_with_t5s_vocabulary(shared_data, tmp_path, task, capsys):
    words = ["--dataset_name", task, "--data_dir", str(shared_data / "glue"), "--use_cpu"]
    words += ["--tokenizer_name", str(shared_data / "tokenizer" / "t5"), "--show_examples", "1"]
    assert fine_tune_t5.main([*words, "--output_dir", str(tmp_path)]) == {}
    assert f"text {task} sentence" in capsys.readouterr().out
