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
PACKAGES = ("torch", "transformers", "numpy")


def append_row(benchmark: str, row: dict) -> None:
    """Adds one JSON line to benchmarks/results/{benchmark}.jsonl."""
    path = ROOT / "benchmarks" / "results" / f"{benchmark}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps({**circumstances(), **row}) + "\n")


def circumstances() -> dict[str, str]:
    """When, at which commit, with what, on which processor."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
    }


def read_results(run: Path) -> dict[str, float]:
    """The metrics of a finished run."""
    return json.loads((run / "all_results.json").read_text())


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
