"""The gain from pre-training in the demo, over seeds: pre-trained against from scratch.

    make demo && .venv/bin/python benchmarks/demo.py --seeds 1 2 3

Runs the demo's recipes anew for each seed (the seed sets initialisation, dropout, data order and
masks; corpus, tokenizer and task rows are those of `make demo`), prints mean and deviation, and
appends one JSON line per seed to benchmarks/results/demo.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import append_row, read_results

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "demo" / "seeds"


def run(program: str, *words: str) -> float:
    """Runs a script of the project; seconds."""
    started = time.perf_counter()
    command = [sys.executable, program, *words, "--resume_from_checkpoint", "none"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_seed(seed: int) -> dict[str, float]:
    """Scores of one seed: pre-training, fine-tuning, control."""
    folder = WORK / str(seed)
    pre_trained = folder / "pre_train"
    common = ("--seed", str(seed), "--save_total_limit", "1")
    seconds = run(
        "pre_train_t5.py", "recipes/demo_pre_train.yaml", "--output_dir", str(pre_trained), *common
    )
    start = ("--model_name_or_path", str(pre_trained))
    scratch = ("--initialize_from_scratch", "--config_name", str(pre_trained))
    for name, words in (("fine_tuned", start), ("from_scratch", (*start, *scratch))):
        output = ("--output_dir", str(folder / name))
        run("fine_tune_t5.py", "recipes/demo_fine_tune.yaml", *words, *output, *common)
    return {
        "seed": seed,
        "pre_train_seconds": round(seconds),
        "held_out_loss": read_results(pre_trained)["eval_loss"],
        "pre_trained_test_accuracy": read_results(folder / "fine_tuned")["test_accuracy"],
        "from_scratch_test_accuracy": read_results(folder / "from_scratch")["test_accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    rows = []
    for seed in parser.parse_args().seeds:
        rows.append(run_seed(seed))
        append_row("demo", rows[-1])
        print(json.dumps(rows[-1]), flush=True)
    for name in ("held_out_loss", "pre_trained_test_accuracy", "from_scratch_test_accuracy"):
        values = [row[name] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:<28} {statistics.mean(values):7.3f} ± {deviation:.3f}  n={len(values)}")


if __name__ == "__main__":
    main()
