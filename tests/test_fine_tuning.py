"""Proves the way from several tasks to scores: mixtures, rank, LoRA, grouped and packed batches,
checkpoints chosen after training, and files without labels, on one rank and on two."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_sentences
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from arguments_t5 import FINE_TUNING
from errors import UserError
from fine_tune_t5 import main
from flags import parse_flags
from model_t5 import load_tokenizer, make_model

ROOT = Path(__file__).resolve().parents[1]
COMMON = {
    "text_column_name": "sentence",
    "label_column_name": "label",
    "metric_to_optimize": "accuracy",
    "metric_names": ["accuracy"],
}
TABLE = {
    "own": {
        "cat": {**COMMON, "prefix": "cat:", "labels": {0: "no", 1: "a cat"}},
        "dog": {**COMMON, "prefix": "dog:", "labels": {0: "the", 1: "a dog"}},
        "copy": {
            **COMMON,
            "prefix": "copy:",
            "labels": None,
            "metric_to_optimize": "exact_match",
            "metric_names": ["exact_match"],
            "num_train_examples": 30,
        },
    }
}


def rows_of(task: str, num_rows: int, *, seed: int) -> list[dict]:
    sentences = make_sentences(num_rows, seed=seed)
    label = {
        "cat": lambda s: int("cat" in s),
        "dog": lambda s: int("dog" in s),
        "copy": lambda s: " ".join(s.split()[:3]),
    }[task]
    return [{"idx": i, "sentence": s, "label": label(s)} for i, s in enumerate(sentences)]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for seed, task in enumerate(TABLE["own"]):
        write_rows(folder / f"{task}.train.jsonl", rows_of(task, 60, seed=seed))
        write_rows(folder / f"{task}.validation.jsonl", rows_of(task, 21, seed=seed + 9))
    (folder / "tasks.yaml").write_text(yaml.safe_dump(TABLE))
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tokenizer_dir) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(str(tokenizer_dir))
    model = make_model(
        shape="t5-v1_1-small",
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=0,
        config_overrides="d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4",
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(out: Path, *, data_dir: Path, model_dir: Path, name: str = "cat") -> list[str]:
    return [
        *("--use_cpu", "--bf16", "False", "--model_name_or_path", str(model_dir)),
        *("--task_file", str(data_dir / "tasks.yaml"), "--benchmark", "own"),
        *("--dataset_name", name, "--data_dir", str(data_dir), "--output_dir", str(out)),
        *("--num_train_epochs", "2", "--optim", "adamw_rms", "--dropout_rate", "0"),
    ]


def test_a_mixture_is_scored_per_task_and_chosen_by_the_mean(data_dir, model_dir, tmp_path, capsys):
    names = words(tmp_path, data_dir=data_dir, model_dir=model_dir, name="cat,dog,copy")
    metrics = main([*names, "--eval_with", "rank", "--patience", "5"])
    expected = ("cat_accuracy", "dog_accuracy", "copy_exact_match")
    scores = [metrics[f"eval_{name}"] for name in expected]
    assert metrics["eval_mean"] == pytest.approx(sum(scores) / 3)
    answered = read(tmp_path / "predictions" / "dog.validation.jsonl")
    right = sum(row["prediction"] == row["target"] for row in answered)
    assert metrics["eval_dog_accuracy"] == pytest.approx(100 * right / 21)
    assert {row["prediction"] for row in answered} <= {"the", "a dog"}
    shown = capsys.readouterr().out
    assert "cat 72" in shown and "copy 36" in shown  # 60 : 60 : 30 of 180
    assert f"mean  {metrics['eval_mean']:.2f}" in shown
    history = json.loads((tmp_path / "log_history.json").read_text())
    means = {entry["step"]: entry["eval_mean"] for entry in history if "eval_mean" in entry}
    assert len(means) == 2 and metrics["eval_mean"] == max(means.values())
    losses = [metrics[f"eval_{name}_loss"] for name in ("cat", "dog", "copy")]
    assert min(losses) < metrics["eval_loss"] < max(losses)


@pytest.mark.parametrize("name", ["cat", "cat,dog"])
def test_patience_ends_a_run_that_gets_no_better(data_dir, model_dir, tmp_path, name):
    names = words(tmp_path, data_dir=data_dir, model_dir=model_dir, name=name)
    names += ["--eval_with", "rank", "--num_train_epochs", "9", "--learning_rate", "1e-9"]
    metrics = main([*names, "--patience", "2"])
    steps_per_epoch = 4 if name == "cat" else 8
    assert metrics["train_steps"] == 3 * steps_per_epoch  # the first evaluation is the best


def test_ranking_gives_the_loss_of_teacher_forcing(data_dir, model_dir, tmp_path):
    found = {}
    for way in ("rank", "teacher_forcing"):
        names = words(tmp_path / way, data_dir=data_dir, model_dir=model_dir)
        found[way] = main([*names, "--do_train=False", "--eval_with", way])
    assert found["rank"]["eval_loss"] == pytest.approx(found["teacher_forcing"]["eval_loss"])
    assert "eval_accuracy" in found["rank"] and "eval_accuracy" not in found["teacher_forcing"]


@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_batches_change_neither_rows_nor_resumption(data_dir, model_dir, tmp_path, batching):
    names = words(tmp_path / "a", data_dir=data_dir, model_dir=model_dir, name="cat,copy")
    names += ["--train_batching", batching, "--tokens_per_batch", "300", "--eval_with", "rank"]
    whole = main(
        [
            *names,
            "--save_steps",
            "2",
            "--save_strategy",
            "steps",
            "--eval_strategy",
            "no",
            "--load_best_model_at_end",
            "False",
            "--save_total_limit",
            "None",
        ]
    )
    assert whole["train_steps"] % 2 == 0
    again = [word.replace(str(tmp_path / "a"), str(tmp_path / "b")) for word in names]
    checkpoint = tmp_path / "a" / "checkpoint-4"
    resumed = main(
        [
            *again,
            "--resume_from_checkpoint",
            str(checkpoint),
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
            "--load_best_model_at_end",
            "False",
        ]
    )
    assert resumed["eval_loss"] == whole["eval_loss"]
    assert resumed["train_steps"] == whole["train_steps"]


def test_the_best_of_all_checkpoints_is_taken(data_dir, model_dir, tmp_path):
    names = words(tmp_path, data_dir=data_dir, model_dir=model_dir)
    names += ["--eval_with", "rank", "--save_total_limit", "None", "--num_train_epochs", "3"]
    names += ["--learning_rate", "0.05", "--metric_for_best_model", "loss"]
    metrics = main([*names, "--load_best_model_at_end", "False", "--evaluate_all_checkpoints"])
    table = json.loads((tmp_path / "all_checkpoints.json").read_text())
    assert [row["checkpoint"] for row in table] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    losses = [row["eval_loss"] for row in table]
    assert len(set(losses)) == 3
    assert metrics["eval_loss"] == min(losses)
    best = table[losses.index(min(losses))]["checkpoint"]
    weights = (load_file(tmp_path / name / "model.safetensors") for name in ("", best))
    assert all((a == b).all() for a, b in zip(*(w.values() for w in weights), strict=True))
    again = main([*names, "--do_train", "False", "--evaluate_all_checkpoints"])
    assert again["eval_loss"] == metrics["eval_loss"]


def test_adapters_are_trained_resumed_loaded_and_merged(data_dir, model_dir, tmp_path):
    names = words(tmp_path / "a", data_dir=data_dir, model_dir=model_dir)
    names += ["--lora_r", "4", "--eval_with", "rank", "--optim", "adamw_torch"]
    names += ["--learning_rate", "0.01", "--save_total_limit", "None"]
    trained = main(names)
    found = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= found
    assert "model.safetensors" not in found
    before = words(tmp_path / "none", data_dir=data_dir, model_dir=model_dir)
    untrained = main([*before, "--do_train", "False", "--eval_with", "rank"])
    assert trained["eval_loss"] < untrained["eval_loss"] - 0.1
    loaded = words(tmp_path / "b", data_dir=data_dir, model_dir=tmp_path / "a")
    loaded = main([*loaded, "--do_train", "False", "--eval_with", "rank"])
    assert loaded["eval_loss"] == pytest.approx(trained["eval_loss"], rel=1e-5)
    merged = [word.replace(str(tmp_path / "a"), str(tmp_path / "c")) for word in names]
    checkpoint = str(tmp_path / "a" / "checkpoint-4")
    resumed = main([*merged, "--lora_merge", "--resume_from_checkpoint", checkpoint])
    assert resumed["eval_loss"] == trained["eval_loss"]
    whole = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "c")
    assert not any("lora" in name for name, _ in whole.named_parameters())
    base = load_file(model_dir / "model.safetensors")
    after = load_file(tmp_path / "c" / "model.safetensors")
    changed = {name for name in base if not (base[name] == after[name]).all()}
    assert changed and all(name.split(".")[-2] in ("q", "v") for name in changed)


def launch(num_ranks: int, arguments: list[str], folder: Path) -> None:
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_ranks)]
    program += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    command = [*program, str(ROOT / "fine_tune_t5.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, cwd=folder
    )
    assert (Path(folder) / "predictions").exists(), done.stdout + done.stderr


def test_two_ranks_predict_the_same_file(data_dir, model_dir, tmp_path, monkeypatch):
    rows = [{"sentence": s} for s in make_sentences(23, seed=5)]
    test_file = write_rows(tmp_path / "rows.jsonl", rows)
    outputs = []
    for num_ranks in (1, 2):
        out = tmp_path / str(num_ranks)
        names = words(out, data_dir=data_dir, model_dir=model_dir)
        names += ["--do_train=False", "--do_eval=False", "--test_file", str(test_file)]
        names += ["--per_device_eval_batch_size", "3", "--predict_chunk_rows", "4"]
        if num_ranks == 1:
            assert main(names) == {"predicted_rows": 23}
        else:
            out.mkdir()
            launch(2, names, out)
        outputs.append((out / "predictions" / "cat.test.jsonl").read_bytes())
        assert [p.name for p in (out / "predictions").iterdir()] == ["cat.test.jsonl"]
    assert outputs[0] == outputs[1]
    found = read(tmp_path / "2" / "predictions" / "cat.test.jsonl")
    assert [row["idx"] for row in found] == list(range(23))
    assert [row["input"] for row in found] == [f"cat: {row['sentence']}" for row in rows]


def test_two_ranks_train_and_score_a_mixture_alike(data_dir, model_dir, tmp_path):
    results = []
    for num_ranks, accumulation in ((1, 2), (2, 1)):
        out = tmp_path / str(num_ranks)
        names = words(out, data_dir=data_dir, model_dir=model_dir, name="cat,copy")
        names += ["--train_batching", "packed", "--tokens_per_batch", "300"]
        names += ["--eval_with", "rank", "--per_device_eval_batch_size", "4"]
        names += ["--gradient_accumulation_steps", str(accumulation), "--max_steps", "5"]
        names += [
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
            "--load_best_model_at_end=False",
        ]
        if num_ranks == 1:
            main(names)
        else:
            out.mkdir()
            launch(2, names, out)
        results.append(json.loads((out / "all_results.json").read_text()))
    for name in ("eval_loss", "eval_cat_accuracy", "eval_copy_exact_match"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-4), name


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--dataset_name", "cat,bird"], "bird is no task"),
        (["--dataset_name", "cat,cat"], "more than once"),
        (["--dataset_name", "copy", "--eval_with", "rank"], "own/copy has none: use --eval_with"),
        (["--mixing", "equal"], "have no effect on one task"),
        (["--mixing_temperature", "2"], "goes with --mixing temperature"),
        (
            ["--patience", "3", "--do_eval=False", "--do_predict=False"],
            "--patience 3 counts evaluations",
        ),
        (["--patience", "3", "--do_eval", "False"], "--patience 3 counts evaluations"),
        (["--tokens_per_batch", "100"], "no effect on random batches"),
        (["--tokens_per_batch", "9", "--train_batching", "packed"], "does not hold the longest"),
        (["--dataset_name", "cat,dog", "--train_file", "x"], "--train_file is for one task"),
        (["--lora_alpha", "3"], "--lora_alpha has no effect without --lora_r"),
        (["--lora_r", "2"], "With --lora_r give --optim adamw_torch"),
        (
            ["--lora_r", "2", "--optim", "adamw_torch", "--lora_target_modules", "query"],
            "has no layer query; it has k, o, q",
        ),
        (["--dataset_name", "cat,dog", "--metric_for_best_model", "accuracy"], "loss, mean, cat_"),
        (["--evaluate_all_checkpoints", "--do_train=False"], "holds no complete checkpoint"),
    ],
)
def test_a_mistake_gets_one_sentence(data_dir, model_dir, tmp_path, extra, sentence):
    with pytest.raises(UserError) as error:
        main([*words(tmp_path, data_dir=data_dir, model_dir=model_dir), *extra])
    assert sentence in str(error.value)


def test_without_peft_lora_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "peft" else found(n))
    with pytest.raises(UserError, match="pip install peft"):
        parse_flags(FINE_TUNING, ["--lora_r", "8"])


def test_all_missing_files_of_a_mixture_are_named_together(data_dir, model_dir, tmp_path):
    names = words(tmp_path, data_dir=data_dir, model_dir=model_dir)
    names = [w for w in names if w not in ("--benchmark", "own")]
    with pytest.raises(UserError) as error:
        main([*names, "--dataset_name", "glue/sst2,own/cat,glue/mnli"])
    message = str(error.value)
    assert "lacks 2 of 3 tasks" in message and "--dataset_name own/cat" in message
    assert "glue/mnli (train, validation_matched, validation_mismatched)" in message


def test_unlabelled_rows_cannot_be_scored(data_dir, model_dir, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"sentence": "a cat"}])
    names = words(tmp_path, data_dir=data_dir, model_dir=model_dir)
    with pytest.raises(UserError, match="no column 'label'"):
        main([*names, "--validation_file", str(path)])
    names += ["--do_train=False", "--do_eval=False", "--test_file", str(path)]
    with pytest.raises(UserError, match="--eval_with teacher_forcing gives the loss"):
        main([*names, "--eval_with", "teacher_forcing"])
