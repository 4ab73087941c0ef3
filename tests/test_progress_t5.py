"""Proves that what a log line says of tokens, speed, waiting and MFU is what happened."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import T5Config

import progress_t5
from flops_t5 import training_flops
from progress_t5 import FORMATS, Meter, RunProgress, duration

ROOT = Path(__file__).resolve().parents[1]
CONFIG = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=128)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    now = {"seconds": 100.0}
    monkeypatch.setattr(progress_t5.time, "perf_counter", lambda: now["seconds"])

    def move(seconds: float) -> None:
        now["seconds"] += seconds

    return move


def batch(num_examples: int, *, input_tokens: int, target_tokens: int) -> dict:
    return {
        "input_ids": torch.zeros((num_examples, input_tokens), dtype=torch.long),
        "labels": torch.zeros((num_examples, target_tokens), dtype=torch.long),
    }


def test_two_steps_are_measured(clock):
    meter = Meter(num_ranks=1)
    for _ in range(2):
        meter.begin_step()
        clock(0.5)
        meter.add_batches([batch(4, input_tokens=16, target_tokens=6)] * 2, config=CONFIG)
        clock(1.5)
        meter.add_z_loss(torch.tensor(0.25))
        meter.end_step()
        clock(7.0)  # evaluating and saving are no part of a step
    assert meter.gather(None) == 2 * 2 * 4 * 16
    flops = 4 * training_flops(CONFIG, num_examples=4, input_tokens=16, target_tokens=6)
    measures = meter.read(peak_flops=flops)
    assert measures == {
        "tokens_per_second": 64.0,
        "seconds_per_step": 2.0,
        "waiting_percent": 25.0,
        "mfu_percent": 25.0,
        "z_loss": 0.25,
    }
    assert meter.read(peak_flops=None) == {}


def test_tokens_are_counted_once_between_logs(clock):
    meter = Meter(num_ranks=1)
    meter.begin_step()
    meter.add_batches([batch(1, input_tokens=8, target_tokens=2)], config=CONFIG)
    clock(1)
    meter.end_step()
    assert [meter.gather(None), meter.gather(None)] == [8, 0]
    assert meter.read(peak_flops=None)["tokens_per_second"] == 8


def test_a_language_model_reads_in_its_decoder(clock):
    meter = Meter(num_ranks=1)
    meter.begin_step()
    meter.add_batches([batch(3, input_tokens=1, target_tokens=64)], config=CONFIG)
    assert meter.gather(None) == 3 * 64


def test_ranks_are_summed(clock):
    class TwoRanks:
        device = torch.device("cpu")

        def reduce(self, counts, reduction):
            return counts * 2  # the other rank did the same

    meter = Meter(num_ranks=2)
    meter.begin_step()
    meter.add_batches([batch(2, input_tokens=8, target_tokens=2)], config=CONFIG)
    clock(2)
    meter.end_step()
    assert meter.gather(TwoRanks()) == 32
    measures = meter.read(peak_flops=None)
    assert measures["tokens_per_second"] == 16 and measures["seconds_per_step"] == 2


class State:
    global_step, max_steps, log_history = 1200, 65536, []


def test_a_log_line_can_be_read(capsys):
    logs = {"loss": 3.21567, "learning_rate": 2e-3, "epoch": 0.5, "tokens_seen": 1_234_567}
    logs |= {"tokens_per_second": 98_765.4, "seconds_per_step": 0.6638, "waiting_percent": 0.04}
    logs |= {"mfu_percent": 51.26, "eval_samples_per_second": 3.0, "z_loss": 0.01}
    logs["peak_memory_gb"] = 12.345
    RunProgress(disable_bars=True).on_log(None, State, None, logs=logs)
    assert capsys.readouterr().out == (
        "step  1,200/65,536  loss 3.216  learning_rate 2.00e-03  1.23M tokens  98.8k tokens/s  "
        "0.664 s/step  waiting 0.0 %  MFU 51.3 %  peak 12.3 GB\n"
    )


MEMORY = """
import psutil, torch
from progress_t5 import peak_memory_gb
cpu = torch.device("cpu")
print(peak_memory_gb(cpu))
table = torch.ones(100_000_000, dtype=torch.float32)
print(peak_memory_gb(cpu))
print(psutil.Process().memory_info().rss / 1e9)
del table
print(peak_memory_gb(cpu))
"""
HOLDS_MUCH = """
import subprocess, sys
held = b"x" * 10**9
sys.exit(subprocess.call(sys.argv[1:]))
"""


def test_peak_memory_is_that_of_the_resident_set_and_stays():
    # In a process where nothing was in memory before, started by one that holds much.
    words = [sys.executable, "-c", HOLDS_MUCH, sys.executable, "-c", MEMORY]
    lines = subprocess.check_output(words, cwd=ROOT, text=True).splitlines()
    before, during, resident, after = map(float, lines)
    assert 0.1 < before < 0.9 and before + 0.35 < during < before + 0.45
    assert during == pytest.approx(resident, abs=0.02)
    assert after == pytest.approx(during, abs=0.01)


def test_what_is_left_counts_evaluations_and_saves(clock, capsys):
    progress = RunProgress(disable_bars=True)
    state = type("Resumed", (State,), {"global_step": 1000})
    progress.on_train_begin(training_arguments(), state, None)
    clock(60 * 10)  # 200 steps and what stands between them
    progress.on_log(None, State, None, logs={"loss": 1.0})
    left = (65536 - 1200) * 3 / 3600
    assert capsys.readouterr().out.endswith(f"loss 1.000  2 d {round(left) - 48} h left\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (90, "2 min"),
        (3601, "1 h 00 min"),
        (11 * 3600 + 52 * 60, "11 h 52 min"),
        (49 * 3600, "2 d 1 h"),
    ],
)
def test_a_duration_can_be_read(seconds, text):
    assert duration(seconds) == text


def training_arguments(**changes) -> SimpleNamespace:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    settings |= {"world_size": 1, "device": torch.device("cpu"), "bf16": False}
    settings |= {"metric_for_best_model": None, "greater_is_better": None}
    return SimpleNamespace(**{**settings, **changes})


@pytest.mark.parametrize(
    ("metric", "now_is_best"), [(None, True), ("eval_loss", True), ("accuracy", False)]
)
def test_the_best_evaluation_is_marked(metric, now_is_best, capsys):
    log = [
        {"step": 10, "eval_loss": 4.0, "eval_accuracy": 40.0},
        {"step": 20, "eval_loss": 3.0, "eval_accuracy": 60.0},
        {"step": 30, "eval_loss": 2.0, "eval_accuracy": 50.0},
    ]
    state = SimpleNamespace(global_step=30, max_steps=40, log_history=log)
    progress = RunProgress(disable_bars=True)
    args = training_arguments(metric_for_best_model=metric, greater_is_better=metric == "accuracy")
    progress.on_train_begin(args, state, None)
    capsys.readouterr()
    progress.on_log(None, state, None, logs=log[-1])  # the table says it
    progress.on_evaluate(args, state, None, metrics={"eval_own_loss": 1.0})  # one of several sets
    assert capsys.readouterr().out == ""
    progress.on_evaluate(args, state, None, metrics=log[-1])
    now, best = capsys.readouterr().out.splitlines()[1:]
    assert now.split()[:3] == ["now", "2.000", "50.000"]
    assert now.endswith("<- best") == now_is_best
    assert best.split() == ["best,", "step", "20", "3.000", "60.000"]


def test_counts_have_three_digits_and_a_letter():
    counts = (9_999, 12_345, 999_499, 999_900, 1_234_567, 999_999_999)
    shown = [FORMATS["tokens_seen"](count).split()[0] for count in counts]
    assert shown == ["9,999", "12.3k", "999k", "1M", "1.23M", "1G"]


def test_after_training_there_is_no_step(capsys):
    progress = RunProgress(disable_bars=True)
    progress.on_evaluate(training_arguments(), State, None, metrics={"eval_loss": 2.0})
    progress.on_predict(training_arguments(), State, None, metrics={"test_loss": 3.0})
    assert capsys.readouterr().out == (
        "held out   after training     loss\n"
        "           now               2.000\n"
        "test            loss\n"
        "               3.000\n"
    )
