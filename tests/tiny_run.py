"""A pre-training of seconds, whole and resumed; also the program of launches with several ranks.

torchrun --nproc_per_node 2 tests/tiny_run.py FOLDER STEP FLAG...
trains FOLDER/whole, gives FOLDER/resumed its checkpoint-STEP, and trains that to the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import pre_train_t5  # noqa: E402

NUM_STEPS = 18  # of 10 in each epoch, for one rank: resuming at 12 is amid the second
LIMIT_SECONDS = 240


def words_of(tokenizer_dir: Path, *, text_file: Path, tokens: Path) -> list[str]:
    """Flags of a run with dropout, whose log lines, evaluations and saves do not coincide."""
    return [
        *("--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"),
        *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"),
        *("--train_file", str(text_file), "--tokenizer_name", str(tokenizer_dir)),
        *("--tokenized_dataset_dir", str(tokens), "--input_seq_length", "32"),
        *("--max_train_examples", "40", "--per_device_train_batch_size", "4"),
        *("--max_steps", str(NUM_STEPS), "--save_steps", "4", "--save_total_limit", "None"),
        *("--eval_steps", "6", "--logging_steps", "3", "--dropout_rate", "0.1"),
    ]


def without_times(entries: list[dict]) -> list[dict]:
    """A log without what no two runs share."""
    ends = (
        "runtime",
        "per_second",
        "seconds",
        "seconds_per_step",
        "waiting_percent",
        "peak_memory_gb",
    )
    return [{k: v for k, v in entry.items() if not k.endswith(ends)} for entry in entries]


def history(folder: Path) -> list[dict]:
    """The log of a finished run."""
    return without_times(json.loads((folder / "log_history.json").read_text()))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def give_checkpoint(whole: Path, resumed: Path, *, step: int) -> None:
    """A folder as a run leaves it that was killed some time after `step`."""
    shutil.rmtree(resumed, ignore_errors=True)
    resumed.mkdir()
    shutil.copytree(whole / f"checkpoint-{step}", resumed / f"checkpoint-{step}")


def train_whole_and_resumed(words: list[str], folder: Path, *, step: int) -> None:
    pre_train_t5.main([*words, "--output_dir", str(folder / "whole")])
    if os.environ.get("RANK", "0") == "0":
        give_checkpoint(folder / "whole", folder / "resumed", step=step)
    wait_for_ranks()
    pre_train_t5.main([*words, "--output_dir", str(folder / "resumed")])


def wait_for_ranks() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def torchrun(program: str, *words: str, ranks: int = 2) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks)),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0", program, *words),
    ]


def launch(program: str, *words: str, ranks: int = 2, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        torchrun(program, *words, ranks=ranks),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        env=environment(**more),
    )


def start(command: list[str], log: Path, **more: str) -> subprocess.Popen:
    """A process group of its own, so that all of it can be signalled and ended."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=environment(**more), start_new_session=True
        )


def wait_for_step(log: Path, process: subprocess.Popen, *, step: int) -> None:
    """Returns once the log has a line of this step or a later one."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        shown = [
            line.split()[1].partition("/")[0].replace(",", "")
            for line in log.read_text(errors="replace").splitlines()
            if line.startswith("step ") and "/" in line
        ]
        if any(int(number) >= step for number in shown if number.isdigit()):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached:\n{log.read_text(errors='replace')}")


def end_group(process: subprocess.Popen) -> None:
    """Nothing of a launch outlives its test."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


if __name__ == "__main__":
    folder, step, *words = sys.argv[1:]
    train_whole_and_resumed(words, Path(folder), step=int(step))
