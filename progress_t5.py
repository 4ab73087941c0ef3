"""What a run says while it goes: measures, one bar, one line per log entry, tables of scores."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import PretrainedConfig, TrainerCallback

from evaluation_tables_t5 import evaluation_table
from flops_t5 import training_flops
from terminal_t5 import paint, say

COUNTS = ("tokens", "seconds", "waited_seconds", "steps", "flops", "z_loss")


class Meter:
    """Tokens, time and arithmetic of the steps since the last log line, summed over all ranks.

    Time is that of the steps themselves: evaluating and saving in between do not count. A token is
    an encoder position, padding included, as in T5's 'tokens per batch'; a decoder position where
    that side is the longer one, as in plain language modelling.
    """

    def __init__(self, *, num_ranks: int):
        self.num_ranks = num_ranks
        self._step_began: float | None = None  # None: between two steps
        self._z_loss_before: torch.Tensor | float = 0.0
        self._here = dict.fromkeys(COUNTS, 0.0)
        self._all_ranks = dict.fromkeys(COUNTS, 0.0)

    def begin_step(self) -> None:
        self._step_began = time.perf_counter()
        self._z_loss_before = self._here["z_loss"]

    def add_batches(self, batches: list[dict], *, config: PretrainedConfig) -> None:
        """Counts the batches for which the step has waited until now."""
        self._here["waited_seconds"] += time.perf_counter() - self._step_began
        for batch in batches:
            num_examples, input_tokens = batch["input_ids"].shape
            target_tokens = batch["labels"].shape[1]
            self._here["tokens"] += num_examples * max(input_tokens, target_tokens)
            self._here["flops"] += training_flops(
                config,
                num_examples=num_examples,
                input_tokens=input_tokens,
                target_tokens=target_tokens,
            )

    def add_z_loss(self, z_loss: torch.Tensor) -> None:
        """Stays on the device: reading it here would make each step wait for the last one."""
        self._here["z_loss"] = self._here["z_loss"] + z_loss.detach()

    def leave_out_step(self) -> None:
        """Forgets the z-loss of a step that the optimizer does not make."""
        self._here["z_loss"] = self._z_loss_before

    def end_step(self) -> None:
        """Counts a step once, though the trainer announces an epoch's last one twice."""
        if self._step_began is None:
            return
        self._here["seconds"] += time.perf_counter() - self._step_began
        self._here["steps"] += 1
        self._step_began = None

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps: the counts of this rank and those of all ranks."""
        return {
            "here": {name: float(value) for name, value in self._here.items()},
            "all_ranks": dict(self._all_ranks),
        }

    def restore(self, states: list[dict], *, rank: int) -> None:
        """Goes on counting from the states of all ranks; where their number changed, on rank 0."""
        self._all_ranks = dict(states[0]["all_ranks"])
        if len(states) == self.num_ranks:
            self._here = dict(states[rank]["here"])
        elif rank == 0:
            here = [state["here"] for state in states]
            self._here = {name: sum(counts[name] for counts in here) for name in COUNTS}

    def gather(self, accelerator: Accelerator) -> int:
        """Takes in what all ranks have counted since the last call and returns its tokens.

        Every rank must call it.
        """
        counts = [torch.as_tensor(self._here[name], dtype=torch.float64) for name in COUNTS]
        sums = torch.stack([count.cpu() for count in counts])
        if self.num_ranks > 1:
            sums = accelerator.reduce(sums.to(accelerator.device), reduction="sum").cpu()
        for name, value in zip(COUNTS, sums.tolist(), strict=True):
            self._all_ranks[name] += value
        self._here = dict.fromkeys(COUNTS, 0.0)
        return round(sums[COUNTS.index("tokens")].item())

    def read(self, *, peak_flops: float | None) -> dict[str, float]:
        """The measures of a log line; counting starts anew. Peak in operations per second."""
        sums, self._all_ranks = self._all_ranks, dict.fromkeys(COUNTS, 0.0)
        if not sums["steps"]:
            return {}
        measures = {
            "tokens_per_second": sums["tokens"] / sums["seconds"] * self.num_ranks,
            "seconds_per_step": sums["seconds"] / sums["steps"],
            "waiting_percent": 100 * sums["waited_seconds"] / sums["seconds"],
        }
        if peak_flops is not None:
            measures["mfu_percent"] = 100 * sums["flops"] / sums["seconds"] / peak_flops
        if sums["z_loss"]:
            measures["z_loss"] = sums["z_loss"] / sums["steps"]
        return measures


def peak_memory_gb(device: torch.device) -> float:
    """Most memory of this process so far, GB: on the GPU what tensors took, else the resident set.

    It never goes down, so that a step which nearly failed is seen in every later line.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return _resident_peak_bytes() / 1e9


def _resident_peak_bytes() -> int:
    """Most that this program held; getrusage would count what started it (a notebook, say)."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RunProgress(TrainerCallback):
    """One bar while training on a terminal, one line per log entry, one table per evaluation.

    The lines are the same on a terminal and in a file; in a file there is nothing else.
    """

    def __init__(self, *, disable_bars: bool):
        self.disable = True if disable_bars else None  # None: only on a terminal
        self.bar: tqdm | None = None
        self.evaluation_bar: tqdm | None = None
        self.began: tuple[float, int] | None = None  # when, at which step this process began

    def on_train_begin(self, args, state, control, **kwargs):
        parts = [f"{args.per_device_train_batch_size} per device"]
        if args.gradient_accumulation_steps > 1:
            parts.append(f"{args.gradient_accumulation_steps} accumulated")
        if args.world_size > 1:
            parts.append(f"{args.world_size} processes")
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        print(
            f"train      {state.max_steps:,} steps of {batch * args.world_size:,} examples "
            f"({' x '.join(parts)}) on {args.device.type}"
            f"{' in bfloat16' if args.bf16 else ''}",
            flush=True,
        )
        self.began = (time.perf_counter(), state.global_step)
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
            disable=self.disable,
            dynamic_ncols=True,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n if not self.bar.disable else 0)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.bar = None

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.evaluation_bar is None:
            self.evaluation_bar = tqdm(
                total=len(eval_dataloader),
                desc="evaluate",
                unit=" batches",
                disable=self.disable,
                leave=False,
                dynamic_ncols=True,
            )
        self.evaluation_bar.update(1)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """The table of a whole evaluation; the library also tells of each of several sets alone."""
        self._close_evaluation_bar()
        if "eval_loss" not in (metrics or {}):
            return
        if self.bar is None:
            say(evaluation_table(metrics, where="after training"))
            return
        name = args.metric_for_best_model or "loss"
        name = name if name.startswith("eval_") else f"eval_{name}"
        sign = -1 if args.greater_is_better is False or name.endswith("loss") else 1
        earlier = [
            entry
            for entry in state.log_history
            if name in entry and entry["step"] < state.global_step
        ]
        best = max(earlier, key=lambda entry: sign * entry[name], default=None)
        say(
            evaluation_table(
                metrics,
                where=f"step {state.global_step:,}/{state.max_steps:,}",
                before=best and (best["step"], best),
                is_best=name in metrics
                and (best is None or sign * metrics[name] > sign * best[name]),
            )
        )

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self._close_evaluation_bar()
        if "test_loss" in (metrics or {}):  # of several sets there is a table at the end
            say(evaluation_table(metrics, where="", head="test", prefix="test_", now=""))

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {
            name: value
            for name, value in (logs or {}).items()
            if isinstance(value, (int, float)) and not name.endswith(HIDDEN_IN_LOG_LINES)
        }
        if "loss" not in shown:  # scores are in tables, and the end has its files
            return
        words = [
            FORMATS[name](value) if name in FORMATS else f"{name} {_short(value)}"
            for name, value in shown.items()
        ]
        words += [f"{left} left"] if (left := self._time_left(state)) else []
        step = paint(f"step {state.global_step:>6,}/{state.max_steps:,}", "dim")
        say("  ".join([step, *words]))
        if self.bar is not None:
            brief = [FORMATS[name](shown[name]) for name in IN_BAR if name in shown]
            self.bar.set_postfix_str("  ".join([*brief, *words[len(shown) :]]))

    def _time_left(self, state) -> str:
        """By what the steps of this process have taken so far, evaluations and saves included."""
        if self.began is None or state.global_step <= self.began[1]:
            return ""
        steps = state.global_step - self.began[1]
        seconds = (time.perf_counter() - self.began[0]) / steps
        left = state.max_steps - state.global_step
        return duration(seconds * left) if left > 0 else ""

    def _close_evaluation_bar(self) -> None:
        if self.evaluation_bar is not None:
            self.evaluation_bar.close()
            self.evaluation_bar = None


# How a log line says a measure; all others as `name value`.
FORMATS = {
    "loss": lambda loss: f"loss {_short(loss)}",
    "tokens_seen": lambda count: f"{_short(count)} tokens",
    "tokens_per_second": lambda rate: f"{_short(round(rate))} tokens/s",
    "seconds_per_step": lambda seconds: f"{seconds:.3g} s/step",
    "waiting_percent": lambda percent: f"waiting {percent:.1f} %",
    "mfu_percent": lambda percent: f"MFU {percent:.1f} %",
    "peak_memory_gb": lambda gigabytes: f"peak {gigabytes:.3g} GB",
}
IN_BAR = ("loss", "tokens_per_second", "mfu_percent", "waiting_percent")
HIDDEN_IN_LOG_LINES = (
    *("epoch", "_runtime", "_samples_per_second", "_steps_per_second", "total_flos"),
    "z_loss",
)


def duration(seconds: float) -> str:
    """47 s, 12 min, 3 h 05 min, 2 d 4 h"""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _short(value: float) -> str:
    """Three digits that matter: 12,345 -> 12.3k; whole numbers below 10,000 as they are."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if letter == "k" else 0.9995 * size):  # 999,900 is 1M, not 1e+03k
            return f"{value / size:.3g}{letter}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-2 else f"{value:.3f}"
