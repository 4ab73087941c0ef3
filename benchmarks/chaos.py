"""A run that is killed again and again must end as one that never was.

    python benchmarks/chaos.py --kills 200              # one rank
    python benchmarks/chaos.py --kills 50 --ranks 2     # torchrun; now and then one rank of two

SIGKILL comes at a random moment after the start, in one of three cases aimed at a save or an
upload that is going on. After each kill all checkpoints that were valid before must still be valid
or have been rotated for newer ones. At the end log lines and weights must be those of the
uninterrupted run, bit for bit. One row goes to results/chaos.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from record import append_row  # noqa: E402
from tiny_run import history, start, torchrun, weights, words_of  # noqa: E402

import cpu_process  # noqa: E402, F401
import pre_train_t5  # noqa: E402
from checkpoints_t5 import BadCheckpoint, numbered_folders, step_of, verify_checkpoint  # noqa: E402
from errors import run_program  # noqa: E402

PRE_TRAIN = str(ROOT / "pre_train_t5.py")
SECONDS_TO_START = 60.0
SECONDS_TO_END = 1800.0
WAYS = ("any moment", "while saving", "while uploading")


class Forked:
    """A run as a child of this process, which has the libraries loaded: it starts in a second."""

    def __init__(self, words: list[str], log: Path):
        self.code: int | None = None
        log.write_bytes(b"")
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.argv[0] = PRE_TRAIN
            try:
                run_program(lambda: pre_train_t5.main(words))
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(ended.code)
            except BaseException:
                traceback.print_exc()
            os._exit(1)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float = SECONDS_TO_END) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid}")
            time.sleep(0.01)
        return self.code


def begin(words: list[str], log: Path, *, ranks: int) -> Forked | subprocess.Popen:
    """Starts the run in a process group of its own."""
    if ranks == 1:
        return Forked(words, log)
    return start(torchrun(PRE_TRAIN, *words, ranks=ranks), log)


class Chaos:
    """One run, its remote, and what was done to it."""

    def __init__(self, folder: Path, *, words: list[str], ranks: int, seed: int):
        self.out, self.remote = folder / "out", folder / "remote"
        self.log = folder / "log"
        words = [*words, "--remote_checkpoint_dir", f"file://{self.remote}"]
        words += ["--output_dir", str(self.out), "--save_total_limit", "2"]
        self.words = words
        self.rng = random.Random(seed)
        self.ranks = ranks
        self.num_kills = self.num_lost = self.num_starts = self.num_other_ends = 0
        self.by_way = dict.fromkeys([*WAYS, "one rank"], 0)

    def valid_steps(self) -> list[int]:
        found = []
        for folder in numbered_folders(self.out) if self.out.is_dir() else []:
            try:
                verify_checkpoint(folder)
                found.append(step_of(folder.name))
            except BadCheckpoint:
                continue
        return found

    def run_once(self, *, kill: bool) -> int:
        """Starts the run; kills it, or lets it end. Returns its exit code."""
        self.num_starts += 1
        process = begin(self.words, self.log, ranks=self.ranks)
        try:
            if kill:
                self._kill(process)
            return process.wait(timeout=SECONDS_TO_END)
        finally:
            _end_all(process)

    def _kill(self, process: Forked | subprocess.Popen) -> None:
        way = self.rng.choice(WAYS)
        newest = max(self.valid_steps(), default=0)
        deadline = time.monotonic() + SECONDS_TO_START
        # First it trains; by then it has resumed.
        while process.poll() is None and time.monotonic() < deadline:
            if "step " in self.log.read_text(errors="replace"):
                break
            time.sleep(0.01)
        stage = way.removeprefix("while ")
        if stage != way:
            while process.poll() is None and time.monotonic() < deadline:
                if any(self.out.glob(f".checkpoint-*.{stage}")):
                    time.sleep(self.rng.uniform(0, 0.03))
                    break
                time.sleep(0.001)
        else:
            time.sleep(self.rng.uniform(0, 1.0))
        if process.poll() is not None:
            self.num_other_ends += 1
            return
        victims = psutil.Process(process.pid).children() if self.ranks > 1 else []
        if victims and self.rng.random() < 0.5:
            way = "one rank"
            self.rng.choice(victims).kill()
            process.wait(timeout=120)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.num_kills += 1
        self.by_way[way] += 1
        if newest and max(self.valid_steps(), default=0) < newest:
            self.num_lost += 1
            print(f"LOST: step {newest} was valid, now {self.valid_steps()}", flush=True)


def _end_all(process: Forked | subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def chaos(
    folder: Path, *, kills: int, minutes: float, ranks: int, seed: int, max_steps: int
) -> dict:
    """What came of a run that was killed `kills` times; the row of the record."""
    words = [*_words(folder), "--max_steps", str(max_steps), "--save_steps", "5"]
    words += ["--eval_steps", "50", "--logging_steps", "3"]
    if ranks > 1:
        words += ["--per_device_train_batch_size", "2"]
    began = time.monotonic()
    whole = [*words, "--output_dir", str(folder / "whole")]
    whole = begin(whole, folder / "whole.log", ranks=ranks)
    try:
        code = whole.wait(timeout=SECONDS_TO_END)
    finally:
        _end_all(whole)
    assert code == 0, (folder / "whole.log").read_text()
    run = Chaos(folder, words=words, ranks=ranks, seed=seed)
    deadline = time.monotonic() + 60 * minutes
    while run.num_kills < kills and run.num_other_ends == 0 and time.monotonic() < deadline:
        run.run_once(kill=True)
    code = run.run_once(kill=False)
    ended = code == 0 and (run.out / "log_history.json").exists()
    return {
        "kills": run.num_kills,
        "kills_by_way": {way: number for way, number in run.by_way.items() if number},
        "ranks": ranks,
        "starts": run.num_starts,
        "steps": max_steps,
        "valid_checkpoints_lost": run.num_lost,
        "log_lines": len(history(folder / "whole")),
        "series_identical": ended and history(run.out) == history(folder / "whole"),
        "weights_identical": ended and weights(run.out) == weights(folder / "whole"),
        "remote_has_the_last": (run.remote / f"checkpoint-{max_steps}" / "manifest.json").exists(),
        "seconds": round(time.monotonic() - began),
    }


def _words(folder: Path) -> list[str]:
    from conftest import make_sentences

    from train_tokenizer_t5 import train_tokenizer

    train_tokenizer(make_sentences(500), output_dir=folder / "tok", vocab_size=116, num_threads=1)
    text = folder / "text.txt"
    text.write_text("\n".join(make_sentences(400)) + "\n")
    return words_of(folder / "tok", text_file=text, tokens=folder / "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop killing after so long")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_steps", type=int, help="default: enough for the kills")
    parser.add_argument("--no_record", action="store_true", help="only print the row")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    steps = given.max_steps or 50 + 40 * given.kills
    row = chaos(
        folder,
        kills=given.kills,
        minutes=given.minutes,
        ranks=given.ranks,
        seed=given.seed,
        max_steps=steps,
    )
    print(json.dumps(row, indent=1))
    if not given.no_record:
        append_row("chaos", row)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
