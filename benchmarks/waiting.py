"""The share of a step spent waiting for its batch: read in the step, ahead, and by a worker.

    make demo && .venv/bin/python benchmarks/waiting.py
    .venv/bin/python benchmarks/waiting.py --steps 60 recipes/base_pre_train.yaml FLAGS   # on a GPU

Runs of pre_train_t5.py take turns, each in a process of its own; what follows the options goes to
it. Given are its own log's `waiting` and seconds per step, the first interval left out: minimum,
median and maximum over the rounds, and the ratio of a step's time to that of the first way.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpu_process  # isort: skip  # noqa: E402, F401 (before torch)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402

from record import append_row  # noqa: E402
from references import command_of_way, spread  # noqa: E402

import pre_train_t5  # noqa: E402
from resumable_t5 import ResumableTrainer  # noqa: E402
from trainer_t5 import T5Trainer  # noqa: E402

IN_THE_STEP, AHEAD, BY_A_WORKER = "in the step", "ahead", "by a worker"
WAYS = (IN_THE_STEP, AHEAD, BY_A_WORKER)
INTERVALS = 5


def run(way: str, words: list[str], *, steps: int) -> tuple[float, float]:
    """(percent of the steps spent waiting, seconds per step)."""
    if way == IN_THE_STEP:
        T5Trainer.get_train_dataloader = ResumableTrainer.get_train_dataloader
    if way == BY_A_WORKER:
        words = [*words, "--dataloader_num_workers", "1"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        pre_train_t5.main(
            [
                *(*words, "--output_dir", folder, "--max_steps", str(steps), "--do_eval", "False"),
                *("--logging_steps", str(steps // INTERVALS), "--eval_strategy", "no"),
                *("--save_strategy", "no", "--resume_from_checkpoint", "none"),
                *("--show_examples", "0"),
            ]
        )
        log = json.loads((Path(folder) / "log_history.json").read_text())
    entries = [entry for entry in log if "waiting_percent" in entry][1:]
    return tuple(
        statistics.mean(entry[name] for entry in entries)
        for name in ("waiting_percent", "seconds_per_step")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500, help="of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help="one run of this one alone")
    flags, words = parser.parse_known_args()
    words = words or ["recipes/demo_pre_train.yaml"]
    if flags.way:
        print(json.dumps(run(flags.way, words, steps=flags.steps)))
        return
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(flags.rounds):
        for way in WAYS:
            printed = subprocess.check_output(command_of_way(way), text=True)
            found[way].append(json.loads(printed.splitlines()[-1]))
    for way in WAYS:
        waiting, seconds = zip(*found[way], strict=True)
        firsts = [run[1] for run in found[IN_THE_STEP]]
        ratios = spread([mine / first for mine, first in zip(seconds, firsts, strict=True)])
        row = {
            "way": way,
            "words": " ".join(words),
            "waiting_percent_min_median_max": spread(waiting),
            "seconds_per_step_min_median_max": spread(seconds),
            "ratio_min_median_max": ratios,
            "rounds": flags.rounds,
            "load": round(os.getloadavg()[0], 1),
        }
        append_row("waiting", row)
        low, middle, high = ratios
        print(f"{way:<12} waiting {statistics.median(waiting):4.1f} %  "
              f"{statistics.median(seconds):.4f} s/step  "
              f"{low:.3f}x {middle:.3f}x {high:.3f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
