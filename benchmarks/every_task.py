"""Every task whose files are in a folder, trained for a few steps: that it runs on real rows.

    python benchmarks/every_task.py --data DIR --tokenizer_name DIR/tokenizer/t5 [--steps 20]

Files are DIR/*/{task}.{split}.jsonl. Where a task has one split only, two thirds of its rows are
learnt and the rest is held out. The model is small and new, so scores say that the way from rows to
scores works, not how good a T5 is. One JSON line per task in benchmarks/results/every_task.jsonl.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpu_process  # isort: skip  # noqa: E402, F401 (before torch)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402

from record import append_row  # noqa: E402

import fine_tune_t5  # noqa: E402
from constants import DATASET_VALS  # noqa: E402
from tasks import Task, find_task  # noqa: E402

SHAPE = "d_model=64,d_kv=16,d_ff=128,num_layers=1,num_heads=4"


def tasks_with_files(data: Path) -> Iterator[tuple[Task, dict[str, Path]]]:
    """Each task of the table with the files of its splits; of several folders the fullest."""
    for benchmark, entries in DATASET_VALS.items():
        for name in entries:
            if "{" in name:  # a family of tasks; its members have names of their own
                continue
            task = find_task(benchmark, name)
            found: dict[Path, dict[str, Path]] = {}
            for path in sorted(data.glob(f"*/{task.file_name}.*.jsonl")):
                found.setdefault(path.parent, {})[path.name.split(".")[-2]] = path
            own = {f: s for f, s in found.items() if f.name.replace("_", "") in _names(benchmark)}
            if found:
                yield task, max((own or found).values(), key=len)


def _names(benchmark: str) -> set[str]:
    return {benchmark.replace("_", ""), f"{benchmark.replace('_', '')}samples"}


def two_parts(files: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """(rows to learn, rows held out), from two files or from one that is cut."""
    if "train" in files and len(files) > 1:
        return files["train"], files.get("validation") or files["test"]
    lines = next(iter(files.values())).read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(lines) * 2 // 3
    parts = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, part in zip(parts, (lines[:cut], lines[cut:]), strict=True):
        path.write_text("".join(part), encoding="utf-8")
    return parts


def run(task: Task, files: dict[str, Path], *, tokenizer: str, steps: int) -> dict:
    """Scores of a short training."""
    with tempfile.TemporaryDirectory() as place:
        training, held_out = two_parts(files, Path(place))
        words = [
            *("--benchmark", task.benchmark, "--dataset_name", task.name),
            *("--validation_file", str(held_out)),
            *(("--train_file", str(training)) if "train" in task.splits else ("--do_train=False",)),
            *("--config_name", "t5-v1_1-small", "--config_overrides", SHAPE, "--use_cpu"),
            *("--tokenizer_name", tokenizer, "--output_dir", str(Path(place) / "run")),
            *("--max_steps", str(steps), "--max_validation_examples", "24"),
            *("--input_seq_length", "256", "--target_seq_length", "32", "--do_predict", "False"),
            *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "24"),
            *("--save_strategy", "no", "--load_best_model_at_end", "False", "--optim", "adamw_rms"),
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            metrics = fine_tune_t5.main(words)
    return {
        "task": str(task),
        "steps": steps,
        "scores": {
            name: round(value, 3)
            for name, value in metrics.items()
            if name.startswith("eval_") and not name.endswith(("runtime", "per_second"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer_name", required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    for task, files in tasks_with_files(args.data):
        row = run(task, files, tokenizer=args.tokenizer_name, steps=args.steps)
        append_row("every_task", row)
        scores = {k.removeprefix("eval_"): v for k, v in row["scores"].items()}
        print(f"{row['task']:<34} {scores}", flush=True)


if __name__ == "__main__":
    main()
