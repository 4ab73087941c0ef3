"""Proves that the notebook's cells run in their order in one process, offline, and that the process
is afterwards as it was: both scripts can be called again and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
LIMIT_SECONDS = 280

# What a notebook's process must not lose, looked at before and after the cells.
AROUND = """
import json, logging, os, signal, sys
import torch, torch.distributed, transformers
from transformers.utils.logging import is_progress_bar_enabled

def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "handlers": [str(signal.getsignal(n)) for n in (2, 15, 10)],
        "group": torch.distributed.is_initialized(),
        "logging": [root.level, len(root.handlers), transformers.logging.get_verbosity()],
        "bars": is_progress_bar_enabled(),
        "random": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
    }

import fine_tune_t5, pre_train_t5
before = state()
namespace = {}
for source in json.loads(sys.argv[1]):
    exec(compile(source, "cell", "exec"), namespace)
after = state()
print("CHANGED", [name for name in before if before[name] != after[name]])
print("PYPLOT", "matplotlib.pyplot" in sys.modules)
"""


def sources() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_cells_run_and_leave_the_process_as_it_was(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AROUND, json.dumps([*sources(), sources()[3]])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=LIMIT_SECONDS,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CHANGED []" in done.stdout and "PYPLOT False" in done.stdout, done.stdout
    work = tmp_path / "notebook_run"
    predictions = (work / "fine_tune" / "predictions" / "objects.test.jsonl").read_text()
    assert all(json.loads(line)["prediction"] in ("no", "yes") for line in predictions.splitlines())
    assert (work / "report.html").exists() and (work / "fine_tune" / "README.md").exists()
    losses = [
        entry["loss"]
        for entry in json.loads((work / "pre_train" / "log_history.json").read_text())
        if "loss" in entry
    ]
    assert losses[-1] < losses[0]


def test_the_notebook_is_one_and_holds_no_output():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
