"""Rows of benchmark results: each with date, commit, versions and hardware."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results"
PACKAGES = ("torch", "transformers", "numpy")


def append_row(benchmark: str, row: dict) -> None:
    """Adds one JSON line to benchmarks/results/{benchmark}.jsonl."""
    path = ROOT / RESULTS / f"{benchmark}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps({**circumstances(), **row}) + "\n")


def circumstances() -> dict[str, str]:
    """When, at which commit, with what, on which processor."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
    }


def read_results(run: Path) -> dict[str, float]:
    """The metrics of a finished run."""
    return json.loads((run / "all_results.json").read_text())


def _commit() -> str:
    """The commit; with -dirty where a file differs from it, other than the results themselves."""
    commit = _git("describe", "--always").strip()
    files = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS}")
    return commit + ("-dirty" if files else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
