"""Proves that a dry run does what the run will do, leaves nothing behind, and that the cost that it
tells is the arithmetic of what it measured and what the whole run will do."""

import json
from pathlib import Path

import pytest
import torch
from conftest import make_sentences

import fine_tune_t5
import pre_train_t5
from amounts import num_times
from corpora_t5 import find_sources
from errors import UserError
from rehearsal_t5 import (
    Measured,
    WholeRun,
    at_most,
    describe_cost,
    rehearsal_folder,
    rehearse,
    sample_corpus,
    whole_seconds,
)
from token_files_t5 import encode_documents

MEASURED = Measured(
    seconds=9.0,
    step_seconds=0.5,
    step_tokens=1000,
    batches_per_epoch=7,
    save_seconds=2.0,
    checkpoint_bytes=3 * 10**9,
    model_bytes=10**9,
    eval_seconds_each=0.1,
    eval_examples=16,
    test_seconds_each=0.2,
    test_examples=8,
    peak_bytes=5 * 10**9,
)
RUN = WholeRun(
    num_steps=1000,
    examples_per_step=4,
    num_evaluations=5,
    eval_examples=200,
    test_examples=50,
    num_saves=10,
    num_kept=2,
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- arithmetic ---------------------------------------------------------------------------------


def test_the_whole_run_is_the_sum_of_its_parts():
    assert whole_seconds(RUN, MEASURED) == {
        "training": 500.0,
        "saving": 20.0,
        "evaluating": 100.0,
        "predicting": 10.0,
    }
    text = describe_cost(RUN, MEASURED, memory_bytes=8e9)
    assert "2 steps, 16 examples evaluated, 8 predicted, a checkpoint and the model saved" in text
    assert "steps      1,000 of 4 examples, 1,000 tokens each: 1,000,000 tokens" in text
    assert "0.5 s/step; 8.3 min training + 20.0 s saving + 100.0 s evaluating" in text
    assert "= 10.5 min" in text
    assert "disk       10.00 GB: 2 checkpoints of 3.00 GB, the next one, the model" in text
    assert "memory     5.00 GB at most in the rehearsal, of 8.0" in text


def test_what_is_not_known_is_not_told():
    run = WholeRun(**{**RUN.__dict__, "num_steps": None, "eval_examples": None})
    assert whole_seconds(run, MEASURED) == {"predicting": 10.0}
    text = describe_cost(run, MEASURED, memory_bytes=8e9)
    assert "as many steps as the data has of 4 examples\n" in text
    assert "5 evaluations, 100.0 s for each 1,000 held-out examples" in text


@pytest.mark.parametrize(
    ("strategy", "every", "times"),
    [("no", 10, 0), ("steps", 10, 10), ("steps", 30, 4), ("steps", 0.1, 10), ("steps", 0.3, 4)],
)
def test_how_often_something_happens(strategy, every, times):
    assert num_times(strategy, every, num_steps=100, num_epochs=2.5) == times
    assert num_times("epoch", every, num_steps=100, num_epochs=2.5) == 3


def test_at_most():
    assert [at_most(3, 5), at_most(9, 5), at_most(9, None), at_most(None, 5)] == [3, 5, 9, 5]
    assert at_most(None, None) is None


# ---- the folder and the sample ------------------------------------------------------------------


def test_the_folder_and_those_made_for_it_are_gone(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.yaml").write_text("a: 1\n")
    for output in ("kept", "new/deep/out"):
        with rehearsal_folder(str(tmp_path / output), is_main=True) as folder:
            (folder / "out").mkdir(parents=True)
            (folder / "out" / "model.safetensors").write_text("x")
    assert tree(tmp_path) == {"kept/run.yaml": b"a: 1\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with (
        pytest.raises(UserError, match="has a comma"),
        rehearsal_folder(str(tmp_path / "a,b"), is_main=True),
    ):
        pass
    with pytest.raises(KeyError), rehearsal_folder(str(tmp_path / "new"), is_main=True) as folder:
        folder.mkdir(parents=True)
        raise KeyError
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_sample_tells_how_long_the_whole_is(tmp_path, tokenizer, suffix):
    sentences = make_sentences(20_000)
    whole = [json.dumps({"text": s, "n": 1}) if suffix == "jsonl" else s for s in sentences]
    (tmp_path / f"a.{suffix}").write_text("\n".join(whole) + "\n")
    sources = {"train": find_sources(files=f"{tmp_path}/a.{suffix}"), "validation": []}
    samples = sample_corpus(
        sources,
        tmp_path / "sample",
        tokenizer=tokenizer,
        enough_tokens={"train": 2000, "validation": 0},
        is_main=True,
    )
    assert samples["validation"].files is None
    train = samples["train"]
    num_tokens = len(encode_documents(sentences, tokenizer=tokenizer))
    assert train.num_tokens == pytest.approx(num_tokens, rel=0.02)
    assert train.num_windows(50) == train.num_tokens // 50
    written = [json.loads(line)["text"] for line in train.paths[0].read_text().splitlines()]
    assert 2000 <= len(encode_documents(written, tokenizer=tokenizer)) < num_tokens / 5
    assert len(written) >= 32  # a stream holds out whole documents


def test_too_little_memory_is_a_mistake_with_a_remedy(tmp_path):
    def main(words, callbacks):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    settings = {"folder": tmp_path, "changes": {}, "device": torch.device("cpu")}
    with pytest.raises(UserError, match="Tried to allocate 9 GiB. Give a smaller --per_device"):
        rehearse(main, [], **settings)


def test_a_rehearsal_tells_no_tracker_and_copies_nothing(tmp_path):
    heard = []

    def main(words, callbacks):
        heard.extend(words)
        return {}

    argv = ["my.yaml", "--report_to", "wandb", "--push_to_hub"]
    settings = {"folder": tmp_path, "changes": {"x": 1}, "device": torch.device("cpu")}
    measured = rehearse(main, argv, **settings)
    assert heard[: len(argv)] == argv and heard[-1] == "--x=1"
    assert {"--report_to=none", "--push_to_hub=False", "--remote_checkpoint_dir=None"} <= {*heard}
    assert {"--dry_run=False", f"--output_dir={tmp_path}/out", "--max_steps=2"} <= {*heard}
    assert measured.step_seconds is None and measured.checkpoint_bytes == 0


# ---- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory, tokenizer_dir) -> list[str]:
    words = ["--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"]
    words += ["--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"]
    words += ["--tokenizer_name", str(tokenizer_dir), "--per_device_train_batch_size", "4"]
    return [*words, "--per_device_eval_batch_size", "8"]


def corpus(folder: Path, *, num_sentences: int = 300, name: str = "text.txt") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(make_sentences(num_sentences)) + "\n")
    return folder / name


def test_a_dry_pre_training_leaves_nothing_and_counts_as_the_run_does(tmp_path, words, capsys):
    text = corpus(tmp_path / "data")
    out = tmp_path / "out"
    words = [
        *words,
        "--train_file",
        str(text),
        "--input_seq_length",
        "32",
        "--max_steps",
        "3_epochs",
    ]
    words += ["--save_steps", "0.5", "--eval_steps", "1_epochs", "--output_dir", str(out)]
    words += ["--tokenized_dataset_dir", str(tmp_path / "tokens"), "--report_to", "tensorboard"]
    words += ["--remote_checkpoint_dir", f"file://{tmp_path}/remote"]
    costs = pre_train_t5.main([*words, "--dry_run"])
    assert costs["dry_run_seconds"] == pytest.approx(
        sum(value for name, value in costs.items() if name != "dry_run_seconds")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    told = capsys.readouterr().out
    assert told.count("launch ") == 1 and "preflight  ok" in told and "reads  " not in told
    metrics = pre_train_t5.main(words)
    steps = int(told.partition("\nsteps      ")[2].split()[0].replace(",", ""))
    assert steps == pytest.approx(metrics["train_steps"], rel=0.05)
    held_out = int(told.partition("evaluations of ")[2].split()[0].replace(",", ""))
    assert held_out == pytest.approx(
        metrics["eval_samples_per_second"] * metrics["eval_runtime"], rel=0.2
    )
    # A folder that holds a run keeps it, and a dry run does not go on with it.
    before = tree(out)
    pre_train_t5.main([*words, "--dry_run", "--learning_rate", "0.5"])
    assert tree(out) == before


def test_a_dry_run_of_streamed_mixed_sources(tmp_path, words, capsys):
    paths = [corpus(tmp_path / "data", name=name) for name in ("a.txt", "b.txt")]
    words = [*words, "--train_file", ",".join(map(str, paths)), "--mixing_weights", "0.75,0.25"]
    words += ["--streaming", "--max_steps", "500", "--input_seq_length", "16"]
    words += ["--objective", "ul2", "--input_seq_length", "64", "--warmup_steps", "50"]
    pre_train_t5.main([*words, "--output_dir", str(tmp_path / "out"), "--dry_run"])
    said = capsys.readouterr()
    assert "steps      500 of 4 examples" in said.out and "warm-up" not in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def write_rows(folder: Path, *, num_rows: int) -> None:
    pair = {"sentence1": "a cat sees", "sentence2": "the cat", "label": 1}
    for task in ("mrpc", "rte"):
        for split, number in (("train", num_rows), ("validation", 20), ("test", 20)):
            (folder / f"{task}.{split}.jsonl").write_text((json.dumps(pair) + "\n") * number)


def test_a_dry_fine_tuning_of_several_tasks_with_adapters(tmp_path, words, capsys):
    write_rows(tmp_path, num_rows=50)
    words = [*words, "--data_dir", str(tmp_path), "--dataset_name", "mrpc,rte"]
    words += ["--input_seq_length", "32", "--lora_r", "2", "--lora_merge", "True"]
    words += ["--optim", "adamw_torch", "--patience", "2", "--num_train_epochs", "2"]
    before = tree(tmp_path)
    fine_tune_t5.main([*words, "--output_dir", str(tmp_path / "out"), "--dry_run"])
    told = capsys.readouterr().out
    assert "2 steps, 16 examples evaluated, 16 predicted, a checkpoint" in told
    assert "steps      50 of 4 examples" in told  # 2 epochs of 100 rows
    assert "2 evaluations of 40 examples, 2 checkpoints" in told
    assert tree(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_dry_run_of_packed_batches_counts_batches(tmp_path, words, capsys):
    write_rows(tmp_path, num_rows=300)
    words = [*words, "--data_dir", str(tmp_path), "--dataset_name", "mrpc", "--do_predict", "False"]
    words += ["--input_seq_length", "32", "--train_batching", "packed", "--tokens_per_batch", "256"]
    words += ["--num_train_epochs", "1", "--output_dir", str(tmp_path / "out")]
    fine_tune_t5.main([*words, "--dry_run"])
    told = capsys.readouterr().out
    metrics = fine_tune_t5.main(words)
    steps = int(told.partition("\nsteps      ")[2].split()[0].replace(",", ""))
    assert steps == pytest.approx(metrics["train_steps"], abs=1)


def test_a_dry_evaluation_trains_nothing(tmp_path, words, capsys):
    write_rows(tmp_path, num_rows=8)
    words = [*words, "--data_dir", str(tmp_path), "--dataset_name", "mrpc", "--do_train", "False"]
    words += ["--input_seq_length", "32", "--output_dir", str(tmp_path / "out"), "--dry_run"]
    costs = fine_tune_t5.main(words)
    told = capsys.readouterr().out
    assert "rehearsal  8 examples evaluated, 8 predicted, in " in told and "steps " not in told
    assert {name for name in costs} == {
        "dry_run_evaluating_seconds",
        "dry_run_predicting_seconds",
        "dry_run_seconds",
    }
