"""Proves that the shipped FSDP2 configuration trains like DDP, generates, saves whole models, loads
the best one and goes on from a checkpoint: with two ranks on CPUs, where accelerate must be made
to, and on GPUs where there are some."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_scripts import fine_tuning_words, pre_trained, task_dir, text_file  # noqa: F401 (fixtures)
from test_zero import FIRST_IS_BEST, ZERO, check_best_was_loaded, free_port, launch, torchrun
from tiny_run import history
from transformers import AutoModelForSeq2SeqLM

pytestmark = pytest.mark.cluster

CONFIGURATION = ("accelerate", "launch", "--config_file", "runs/accelerate/fsdp.yaml")
# Lengths that differ: a rank whose rows end early must go on.
WORDS = [*ZERO, *FIRST_IS_BEST, "--save_total_limit", "5", "--eval_with", "generate"]
WORDS += ["--learning_rate", "1e-2"]


def fsdp(*words: str) -> str:
    return launch(
        *(*CONFIGURATION, "--mixed_precision", "no", "--num_processes", "2"),
        *("--main_process_port", free_port(), "tests/cluster/fsdp_on_cpu.py", *words),
    )


def largest_difference(a: Path, b: Path) -> float:
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_shares_train_as_copies_do_and_resume(tmp_path, pre_trained, task_dir):  # noqa: F811
    files = {"task_dir": task_dir, "model": pre_trained[0]}
    whole, halted, copies = (tmp_path / name for name in ("whole", "halted", "copies"))
    words = [*WORDS, "--optim", "adamw_rms"]
    text = fsdp(*fine_tuning_words(whole, **files), *words)
    assert "accelerate: 2 processes on 1 node, each on CPU (1 thread); FSDP\n" in text
    assert "; DDP\n" in torchrun(*fine_tuning_words(copies, **files), *words)
    for folder in (".", "checkpoint-3", "checkpoint-6"):
        assert largest_difference(whole / folder, copies / folder) < 1e-6
    assert largest_difference(whole, pre_trained[0]) > 1e-3
    predictions = [path / "predictions" / "cat.test.jsonl" for path in (whole, copies)]
    assert predictions[0].read_text() == predictions[1].read_text()
    best = check_best_was_loaded(whole, task_dir=task_dir)
    assert not any(path.suffix == ".bin" for path in best.iterdir())

    fsdp(*fine_tuning_words(halted, **files), *words, "--resume_from_checkpoint", str(best))
    assert history(halted) == history(whole)
    last = whole / "checkpoint-6", halted / "checkpoint-6"
    assert largest_difference(*last) == largest_difference(halted, whole) == 0
    results = [json.loads((path / "all_results.json").read_text()) for path in (whole, halted)]
    assert results[0]["test_loss"] == results[1]["test_loss"]


# Muon orthogonalises in bfloat16, and shares are summed in another order. Adafactor factors as it
# does in a large model.
FACTORED = ("t5_adafactor", "--optim_args", "min_dim_size_to_factor=4")


@pytest.mark.parametrize(
    ("optimizer", "most"), [(("muon",), 2e-3), (("schedule_free",), 1e-6), (FACTORED, 1e-6)]
)
def test_every_optimizer_takes_shares(tmp_path, pre_trained, task_dir, optimizer, most):  # noqa: F811
    shares, copies = tmp_path / "shares", tmp_path / "copies"
    for start, folder in ((fsdp, shares), (torchrun, copies)):
        words = fine_tuning_words(folder, task_dir=task_dir, model=pre_trained[0])
        start(*words, *WORDS, "--optim", *optimizer)
    for folder in ("checkpoint-3", "checkpoint-6"):
        assert largest_difference(shares / folder, copies / folder) < most
    assert largest_difference(shares / "checkpoint-6", pre_trained[0]) > 1e-2


def test_fsdp_that_accelerate_would_leave_out_is_refused(tmp_path):
    text = launch(
        *(*CONFIGURATION, "--num_processes", "2", "--main_process_port", free_port()),
        *("fine_tune_t5.py", "--use_cpu", "--output_dir", str(tmp_path / "out")),
        code=1,  # the launcher's own
    )
    assert "FSDP was asked for, and accelerate does without it on cpu with 2 processes" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs GPUs")
def test_fsdp_on_gpus(tmp_path, pre_trained, task_dir):  # noqa: F811
    words = fine_tuning_words(tmp_path, task_dir=task_dir, model=pre_trained[0])
    text = launch(
        *(*CONFIGURATION, "--num_processes", str(torch.cuda.device_count())),
        *("--main_process_port", free_port(), "fine_tune_t5.py", *words[3:]),
    )
    assert "; FSDP\n" in text or torch.cuda.device_count() == 1
    saved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    start = AutoModelForSeq2SeqLM.from_pretrained(pre_trained[0])
    assert {n: p.shape for n, p in saved.named_parameters()} == {
        n: p.shape for n, p in start.named_parameters()
    }
