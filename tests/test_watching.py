"""Proves what is seen of a run: on a terminal a bar and colours, in a file lines of plain text, and
that trackers without an account or a network hold what was logged."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

import pre_train_t5
from terminal_t5 import paint

ROOT = Path(__file__).resolve().parents[1]
ESCAPES = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
LIMIT_SECONDS = 120


def command(words: list[str], folder: Path) -> list[str]:
    words = [*words, "--max_steps", "6", "--eval_steps", "3", "--save_steps", "6"]
    return [sys.executable, str(ROOT / "pre_train_t5.py"), *words, "--output_dir", str(folder)]


def environment(**more: str) -> dict[str, str]:
    plain = {n: v for n, v in os.environ.items() if n != "NO_COLOR"}
    return {**plain, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TERM": "xterm", **more}


def seen_on_a_terminal(words: list[str], folder: Path, **more: str) -> str:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(
        command(words, folder), stdout=terminal, stderr=terminal, env=environment(**more)
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(LIMIT_SECONDS) == 0, shown.decode()
    os.close(main)
    return shown.decode()


def test_a_file_holds_lines_of_plain_text(tiny_words, tmp_path):
    done = subprocess.run(
        command(tiny_words, tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(FORCE_COLOR="1"),
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)  # no \r, no \t, no escapes
    assert "%|" not in done.stdout and "% |" not in done.stdout
    lines = done.stdout.splitlines()
    (first, second) = [line for line in lines if line.startswith("step ")]
    assert re.search(r"step      3/6  loss \S+ .* tokens/s .* waiting \S+ %  .*\d+ s left$", first)
    assert second.startswith("step      6/6") and "left" not in second
    tables = [number for number, line in enumerate(lines) if line.startswith("held out   step")]
    assert len(tables) == 2
    assert lines[tables[0]].split()[4:] == ["loss", "token_accuracy", "bits_per_byte"]
    assert lines[tables[0] + 1].split()[0] == "now" and lines[tables[0] + 1].endswith("<- best")
    assert lines[tables[1] + 2].split()[:3] == ["best,", "step", "3"]


def test_a_terminal_has_a_bar_and_colours(tiny_words, tmp_path):
    shown = seen_on_a_terminal(tiny_words, tmp_path / "out")
    assert "\x1b[1m" in shown and "\x1b[32m" in shown
    text = ESCAPES.sub("", shown)
    assert re.search(r"train  *50% \|.*\| 3/6, loss \S+  \S+ tokens/s  waiting", text)
    lines = re.split(r"[\r\n]+", text)  # what stands on one line, before a bar is drawn over it
    samples = [line for line in lines if "held out   " in line]
    assert len(samples) == 6 and all(line.startswith("held out   ") for line in samples)
    assert sum(line.startswith("step ") for line in lines) == 2


@pytest.mark.parametrize(
    ("terminal", "more", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # as no-color.org has it
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_are_shown_where_they_are_wanted(terminal, more, coloured, monkeypatch):
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: terminal))
    assert paint("a", "green") == ("\x1b[32ma\x1b[0m" if coloured else "a")


def test_other_ranks_are_quiet(tiny_words, tmp_path):
    from tiny_run import launch

    words = [*tiny_words, "--max_steps", "4", "--save_steps", "4", "--eval_steps", "4"]
    words += ["--output_dir", str(tmp_path / "out")]
    done = launch(str(ROOT / "pre_train_t5.py"), *words)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    for beginning in ("launch ", "train ", "optimizer ", "held out   step", "windows "):
        assert sum(line.startswith(beginning) for line in done.stdout.splitlines()) == 1, beginning


# ---- trackers -----------------------------------------------------------------------------------


def logged(folder: Path, name: str) -> dict[int, float]:
    log = json.loads((folder / "log_history.json").read_text())
    return {entry["step"]: entry[name] for entry in log if name in entry}


@pytest.fixture
def run_tracked(tiny_words, tmp_path, monkeypatch):
    """Pre-trains in this process with a tracker; returns the output folder."""

    def run(tracker: str, **more: str) -> Path:
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        words = command(tiny_words, tmp_path / "out")[2:]
        pre_train_t5.main([*words, "--report_to", tracker])
        return tmp_path / "out"

    return run


def test_tensorboard_holds_the_log(run_tracked, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = tmp_path / "events"
    folder = run_tracked("tensorboard", TENSORBOARD_LOGGING_DIR=str(events))
    (file,) = events.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(file)).Reload()
    for tag, name in (("train/loss", "loss"), ("eval/bits_per_byte", "eval_bits_per_byte")):
        found = {event.step: event.value for event in board.Scalars(tag)}
        assert found == pytest.approx(logged(folder, name)), tag


def test_trackio_holds_the_log(tiny_words, tmp_path):
    pytest.importorskip("trackio")
    place = environment(TRACKIO_DIR=str(tmp_path / "trackio"))  # read when it is imported
    words = [*command(tiny_words, tmp_path / "out"), "--report_to", "trackio"]
    subprocess.run(words, check=True, capture_output=True, env=place, timeout=LIMIT_SECONDS)
    (file,) = (tmp_path / "trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        entries = [json.loads(row[0]) for row in database.execute("select metrics from metrics")]
    losses = [entry["train/loss"] for entry in entries if "train/loss" in entry]
    assert losses == pytest.approx(list(logged(tmp_path / "out", "loss").values()))


def test_wandb_offline_leaves_a_run_for_each_to_sync(run_tracked, tmp_path):
    """Two runs of one process are two runs there."""
    wandb = pytest.importorskip("wandb")
    place = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    folder = run_tracked("wandb", **place)
    assert wandb.run is None and "WANDB_RUN_ID" not in os.environ
    shutil.rmtree(folder)
    run_tracked("wandb", **place)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(runs[1])],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    last = max(logged(folder, "eval_loss").items())[1]
    assert str(round(last, 6))[:6] in shown.stdout, shown.stdout + shown.stderr
