"""Seconds until a program answers: `--help`, a misspelt flag, and the first optimizer step.

    python benchmarks/startup.py --repeats 5

The first step is that of recipes/demo_pre_train.yaml with its tokenizer and corpus ready (the first
run, which is not counted, makes what is missing and warms the files), from the start of the process
to the line that says the loss of step 1. Beside it, in turn, a script of a dozen lines trains the
same model for one step with the stock Seq2SeqTrainer on tokens drawn at random, so without reading
or tokenising anything.

Seconds on the clock and of all processors, each minimum, median and maximum: on a busy machine the
second ones say more.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from record import ROOT, append_row

SCRIPTS = ("pre_train_t5.py", "fine_tune_t5.py", "train_tokenizer_t5.py", "pmi_vocab_t5.py")
TOKENIZER = Path("demo/tokenizer")
FIRST_STEP = re.compile(r"loss\W+\d")
SECONDS_AT_MOST = 600

STOCK = """
import sys
import numpy as np
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Seq2SeqTrainer
from transformers import Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained("demo/tokenizer")
config = T5Config(
    vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
    feed_forward_proj="gated-gelu", decoder_start_token_id=0,
)
ids = np.random.default_rng(0).integers(3, 1000, size=(16, 78)).tolist()
args = Seq2SeqTrainingArguments(
    sys.argv[1], per_device_train_batch_size=16, max_steps=1, logging_steps=1, use_cpu=True,
    bf16=True, report_to="none", save_strategy="no",
)
Seq2SeqTrainer(
    T5ForConditionalGeneration(config), args,
    train_dataset=[{"input_ids": row[:64], "labels": row[64:]} for row in ids],
    data_collator=DataCollatorForSeq2Seq(tokenizer), processing_class=tokenizer,
).train()
"""


def until_exit(words: list[str]) -> tuple[float, float]:
    """(clock, processor) seconds of a program that ends."""
    start = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def until_first_step(words: list[str]) -> tuple[float, float]:
    """(clock, processor) seconds until a program says the loss of its first step; then it is ended.

    The programs' logs are line-buffered by PYTHONUNBUFFERED.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if FIRST_STEP.search(line):
                seconds = time.perf_counter() - start
                times = psutil.Process(process.pid).cpu_times()
                return seconds, times.user + times.system
        raise SystemExit(f"{' '.join(words)} made no step:\n{''.join(said[-20:])}")
    finally:
        process.kill()
        process.wait(SECONDS_AT_MOST)


def ways(folder: Path) -> dict[str, tuple]:
    """{name: (how it is timed, command)}."""
    python = sys.executable
    stock = folder / "stock.py"
    stock.write_text(STOCK)
    demo = ["--max_steps", "1", "--logging_steps", "1", "--do_eval", "False", "--use_cpu"]
    demo += ["--resume_from_checkpoint", "none", "--output_dir", str(folder / "out")]
    return {
        **{f"{script} --help": (until_exit, [python, script, "--help"]) for script in SCRIPTS},
        "a misspelt flag": (until_exit, [python, "pre_train_t5.py", "--learning_rat", "1"]),
        "import torch, transformers": (until_exit, [python, "-c", "import torch, transformers"]),
        "stock Trainer, first step": (until_first_step, [python, str(stock), str(folder / "s")]),
        "demo, first step": (
            until_first_step,
            [python, "pre_train_t5.py", "recipes/demo_pre_train.yaml", *demo],
        ),
    }


def spread(numbers: list[float]) -> list[float]:
    """Minimum, median and maximum."""
    return [round(f(numbers), 2) for f in (min, statistics.median, max)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="Measure the rows with this in their name.")
    flags = parser.parse_args()
    if not (ROOT / TOKENIZER).exists():
        make = [
            "train_tokenizer_t5.py",
            "--dataset_paths",
            "installed_docs",
            "--vocab_size",
            "1024",
        ]
        make += ["--max_sample_megabytes", "4", "--output_dir", str(TOKENIZER)]
        subprocess.run([sys.executable, *make], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {k: v for k, v in ways(Path(folder)).items() if (flags.only or "") in k}
        found: dict[str, list] = {name: [] for name in chosen}
        for turn in range(flags.repeats + 1):
            for name, (measure, words) in chosen.items():
                seconds = measure(words)
                if turn:
                    found[name].append(seconds)
            print(f"turn {turn} of {flags.repeats}, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"{'':30}  clock seconds          processor seconds")
    for name, pairs in found.items():
        clock, processor = (spread([pair[i] for pair in pairs]) for i in (0, 1))
        print(f"{name:30}" + "".join(f"{number:7.2f}" for number in clock + processor))
        append_row(
            "startup",
            {
                "what": name,
                "clock_seconds_min_median_max": clock,
                "processor_seconds_min_median_max": processor,
                "n": len(pairs),
                "load": round(os.getloadavg()[0], 1),
            },
        )


if __name__ == "__main__":
    main()
