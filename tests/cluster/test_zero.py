"""Proves that ZeRO-2 and ZeRO-3 train, generate, load the best model on every rank, save whole
models and go on from a checkpoint, on two CPU ranks under the deepspeed launcher and accelerate."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm_on_one_host import BIN, ROOT
from test_scripts import fine_tuning_words, pre_trained, task_dir, text_file  # noqa: F401 (fixtures)
from transformers import AutoModelForSeq2SeqLM

import fine_tune_t5

pytestmark = pytest.mark.cluster

ZERO = ["--optim", "adamw_torch", "--learning_rate", "1e-3", "--logging_steps", "1"]
ZERO += ["--max_train_examples", "96", "--max_validation_examples", "10"]
# The model of the greatest loss counts as the best one: that of the first pass, not of the last.
FIRST_IS_BEST = ["--metric_for_best_model", "loss", "--greater_is_better", "True"]


def launch(*words: str, seconds: float = 280, code: int = 0) -> str:
    """The output of a launch that ends with `code`; DeepSpeed compiles for a minute at first."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def deepspeed(*words: str) -> str:
    """Two ranks under the deepspeed launcher, on a free port as sweeps start it."""
    launcher = ["bash", "sweeps/deepspeed.sh", "--num_gpus", "2"]
    return launch(*launcher, "fine_tune_t5.py", *words)


def torchrun(*words: str) -> str:
    """Two ranks, each with a copy of the model."""
    launcher = ["torchrun", "--standalone", "--nproc_per_node", "2"]
    return launch(*launcher, "fine_tune_t5.py", *words)


def gradient_norms(folder: Path, *, after: int) -> list[tuple[int, float]]:
    """(step, norm) of the steps after one; of a norm no later bookkeeping takes anything away."""
    history = json.loads((folder / "log_history.json").read_text())
    norms = [(entry["step"], entry["grad_norm"]) for entry in history if "grad_norm" in entry]
    return [(step, norm) for step, norm in norms if step > after]


def check_best_was_loaded(folder: Path, *, task_dir: Path) -> Path:  # noqa: F811
    """The best checkpoint, whose weights the folder holds and every rank was evaluated with."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    best, last = [load_file(checkpoints[i] / "model.safetensors") for i in (0, -1)]
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], best[name]) for name in best)
    assert any(not torch.equal(last[name], best[name]) for name in best)
    results = json.loads((folder / "all_results.json").read_text())
    words = fine_tuning_words(folder / "alone", task_dir=task_dir, model=folder)
    alone = fine_tune_t5.main([*words, "--do_train", "False", "--max_validation_examples", "10"])
    for name in ("test_loss", "eval_loss"):
        assert results[name] == pytest.approx(alone[name], rel=1e-5), name
    return checkpoints[0]


def test_all_ranks_load_the_best_model(tmp_path, pre_trained, task_dir):  # noqa: F811
    words = fine_tuning_words(tmp_path, task_dir=task_dir, model=pre_trained[0])
    text = torchrun(*words, *ZERO, *FIRST_IS_BEST, "--save_total_limit", "5")
    assert "2 processes on 1 node, each on CPU (1 thread); DDP" in text
    check_best_was_loaded(tmp_path, task_dir=task_dir)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_stage_trains_generates_saves_and_resumes(stage, tmp_path, pre_trained, task_dir):  # noqa: F811
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    zero = [*ZERO, *FIRST_IS_BEST, "--deepspeed", f"zero_stage{stage}_config.json"]
    files = {"task_dir": task_dir, "model": pre_trained[0]}
    text = deepspeed(*fine_tuning_words(whole, **files), *zero, "--save_total_limit", "5")
    assert "deepspeed: 2 processes on 1 node, each on CPU (1 thread)" in text
    assert f"; DeepSpeed ZeRO-{stage}\n" in text
    results = json.loads((whole / "all_results.json").read_text())
    assert 0 <= results["test_accuracy"] <= 100
    assert len((whole / "predictions" / "cat.test.jsonl").read_text().splitlines()) == 30

    saved = AutoModelForSeq2SeqLM.from_pretrained(whole)
    start = AutoModelForSeq2SeqLM.from_pretrained(pre_trained[0])
    assert {n: p.shape for n, p in saved.named_parameters()} == {
        n: p.shape for n, p in start.named_parameters()
    }
    assert any((a != b).any() for a, b in zip(saved.parameters(), start.parameters(), strict=True))

    # The same run, begun from the checkpoint of its first pass, comes to the same end; the best
    # model lies in the other folder.
    first = check_best_was_loaded(whole, task_dir=task_dir)
    deepspeed(*fine_tuning_words(halted, **files), *zero, "--resume_from_checkpoint", str(first))
    step = int(first.name[11:])
    assert len(gradient_norms(whole, after=step)) == 3
    assert gradient_norms(halted, after=step) == gradient_norms(whole, after=step)
    again = json.loads((halted / "all_results.json").read_text())
    assert again["test_loss"] == results["test_loss"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_stage_trains_with_its_states_offloaded(stage, tmp_path, pre_trained, task_dir):  # noqa: F811
    """DeepSpeed's own AdamW for the host, against PyTorch's on copies of the model."""
    words = [*ZERO, "--max_steps", "3", "--load_best_model_at_end", "False"]
    of = {
        name: fine_tuning_words(tmp_path / name, task_dir=task_dir, model=pre_trained[0])
        for name in ("offloaded", "kept")
    }
    deepspeed(*of["offloaded"], *words, "--deepspeed", f"zero_stage{stage}_offload_config.json")
    torchrun(*of["kept"], *words)
    norms = [gradient_norms(tmp_path / name, after=0) for name in ("offloaded", "kept")]
    assert [step for step, _ in norms[0]] == [1, 2, 3]
    assert [n for _, n in norms[0]] == pytest.approx([n for _, n in norms[1]], rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("offloaded", "kept")]
    start = load_file(pre_trained[0] / "model.safetensors")
    for name, weight in weights[1].items():
        assert (weight - weights[0][name]).abs().max() < 1e-5, name
    assert any((weight - start[name]).abs().max() > 1e-3 for name, weight in weights[1].items())


def test_accelerate_with_the_shipped_zero_configuration(tmp_path, pre_trained, task_dir):  # noqa: F811
    text = launch(
        *("accelerate", "launch", "--config_file", "runs/accelerate/zero_stage2.yaml"),
        *("--num_processes", "2", "--main_process_port", free_port(), "fine_tune_t5.py"),
        *fine_tuning_words(tmp_path, task_dir=task_dir, model=pre_trained[0]),
        *("--max_steps", "2", *ZERO),
    )
    assert "2 processes on 1 node, each on CPU (1 thread); DeepSpeed ZeRO-2" in text
    assert (tmp_path / "model.safetensors").exists()


def test_accelerate_with_the_shipped_cpu_configuration(tmp_path, pre_trained, task_dir):  # noqa: F811
    text = launch(
        *("accelerate", "launch", "--config_file", "runs/accelerate/cpu.yaml", "fine_tune_t5.py"),
        *fine_tuning_words(tmp_path, task_dir=task_dir, model=pre_trained[0]),
        *("--max_steps", "2"),
    )
    assert "accelerate: 2 processes on 1 node, each on CPU (1 thread); DDP" in text


def test_the_silent_single_process_of_accelerate_is_refused(tmp_path):
    words = ["launch", "--cpu", "--num_processes", "2", "fine_tune_t5.py", "--use_cpu"]
    done = subprocess.run(
        [f"{BIN}/accelerate", *words, "--output_dir", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "accelerate launch was asked for 2 processes and has started one" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_number_of_processes_than_expected_is_refused(tmp_path):
    words = ["--standalone", "--nproc_per_node", "2", "fine_tune_t5.py", "--expect_processes", "4"]
    done = subprocess.run(
        [f"{BIN}/torchrun", *words, "--output_dir", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "--expect_processes 4: there are 2 (torchrun: 2 processes on 1 node" in done.stderr
    assert not (tmp_path / "out").exists()
