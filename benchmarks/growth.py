"""How time and memory grow: a step with length, batch and model, tokenising with the corpus.

    python benchmarks/growth.py --tokenizer_name FOLDER [--only length,batch,model,tokenise,memory]

    length     one example of 128 to 4,096 input tokens, targets 114/512 of it, 2 + 2 layers
    batch      1 to 32 examples of 128 tokens, the same model
    model      8 examples of 128 tokens, d_model 64 to 512
    tokenise   0.25 to 8 MB of installed_docs, words not yet known
    memory     the newest rows of memory_of_corpora.py, which measures it; nothing is run

A step is forward, backward and the optimizer, in float32, through the project's own attention, on
one thread. What counts is the least of the processor seconds of --repeats steps or tokenisings,
after one to warm up. Each row is fitted by time = a * size ** slope on all its points and on its
last two, and drawn with both to benchmarks/results/growth_{what}.svg.
benchmarks/growth_cpu_202611.md explains the slopes.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from input_pipeline import some_texts  # noqa: E402
from record import ROOT, append_row  # noqa: E402

from model_t5 import load_tokenizer, start_model  # noqa: E402
from optimizer_t5 import make_optimizer  # noqa: E402
from token_files_t5 import tokenise  # noqa: E402

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16, 32)
WIDTHS = (64, 128, 256, 512)
MEGABYTES = (0.25, 0.5, 1, 2, 4, 8)
SMALL = "d_model=64,d_kv=16,d_ff=128,num_layers=2,num_heads=4"
DOCUMENTS_PER_BATCH = 1000

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth"})


def least_seconds(work: Callable[[], None], *, repeats: int) -> float:
    """The least processor seconds of it, after once to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def step_seconds(model, *, examples: int, length: int, repeats: int) -> float:
    """The least processor seconds of a training step of this shape."""
    rng = np.random.Generator(np.random.PCG64(0))
    vocabulary = model.config.vocab_size
    draw = lambda tokens: torch.from_numpy(rng.integers(3, vocabulary, (examples, tokens)))  # noqa: E731
    batch = {"input_ids": draw(length), "labels": draw(max(2, length * 114 // 512))}
    optimizer = make_optimizer(
        "adamw_rms", model, decayed=(), settings={"lr": 1e-3}, own_settings={}
    )

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return least_seconds(step, repeats=repeats)


def model_of(overrides: str, *, tokenizer):
    """A T5 v1.1 from random weights, with the attention that --attn_implementation auto takes."""
    model = start_model(
        name_or_path="",
        shape="t5-v1_1-small",
        config_overrides=overrides,
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=0,
        use_cpu=True,
    )
    return model.train()


# ---- what is measured: (size, seconds or MB) ----------------------------------------------------


def by_length(tokenizer, repeats: int) -> list[tuple[float, float]]:
    model = model_of(SMALL, tokenizer=tokenizer)
    return [(n, step_seconds(model, examples=1, length=n, repeats=repeats)) for n in LENGTHS]


def by_batch(tokenizer, repeats: int) -> list[tuple[float, float]]:
    model = model_of(SMALL, tokenizer=tokenizer)
    return [(n, step_seconds(model, examples=n, length=128, repeats=repeats)) for n in BATCHES]


def by_model(tokenizer, repeats: int) -> list[tuple[float, float]]:
    """By parameters without the embedding, in millions: looking a token up costs no arithmetic."""
    points = []
    for width in WIDTHS:
        overrides = f"d_model={width},d_kv=16,d_ff={2 * width},num_layers=2,num_heads={width // 16}"
        model = model_of(overrides, tokenizer=tokenizer)
        counted = sum(p.numel() for p in model.parameters()) - model.shared.weight.numel()
        points.append((counted / 1e6, step_seconds(model, examples=8, length=128, repeats=repeats)))
    return points


def by_corpus(tokenizer, repeats: int) -> list[tuple[float, float]]:
    texts = some_texts(None, num_bytes=int(MEGABYTES[-1] * 1e6))
    ends = np.cumsum([len(text.encode()) for text in texts]) / 1e6
    points = []
    for megabytes in MEGABYTES:
        some = texts[: int(np.searchsorted(ends, megabytes)) + 1]
        parts = range(0, len(some), DOCUMENTS_PER_BATCH)
        batches = [some[first : first + DOCUMENTS_PER_BATCH] for first in parts]
        with tempfile.TemporaryDirectory() as folder:
            keys = map(str, itertools.count())  # the same key would find its tokens there

            def work(batches=batches, folder=Path(folder), keys=keys) -> None:
                tokenise(batches, tokenizer=tokenizer, cache_dir=folder, key=next(keys))

            points.append((float(ends[len(some) - 1]), least_seconds(work, repeats=repeats)))
    return points


def by_memory(tokenizer, repeats: int) -> list[tuple[float, float]]:
    """The peak while tokenising, of the newest command among the rows."""
    path = ROOT / "benchmarks" / "results" / "memory_of_corpora.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if "megabytes" in row]
    newest = [row for row in rows if row["command"] == rows[-1]["command"]]
    return [(row["megabytes"], row["peak_mb_tokenising"]) for row in newest]


KINDS = {
    "length": (by_length, "input tokens of the one example", "CPU seconds per step"),
    "batch": (by_batch, "examples of 128 tokens", "CPU seconds per step"),
    "model": (by_model, "millions of parameters besides the embedding", "CPU seconds per step"),
    "tokenise": (by_corpus, "MB of text", "CPU seconds"),
    "memory": (by_memory, "MB of text", "MB at most"),
}


# ---- what is said of it -------------------------------------------------------------------------


def slope(points: list[tuple[float, float]]) -> float:
    """The exponent of the power of size that fits the points best on logarithmic axes."""
    sizes, values = np.log(np.array(points).T)
    return float(np.polyfit(sizes, values, 1)[0])


def draw(name: str, points: list[tuple[float, float]], *, labels: tuple[str, str]) -> None:
    """A small plot on logarithmic axes, with both slopes in its title."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4, 3), layout="constrained")
    axes.loglog(*zip(*points, strict=True), marker="o")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_title(f"{name}: slope {slope(points):.2f}, at the end {slope(points[-2:]):.2f}")
    axes.grid(alpha=0.3, which="both")
    path = ROOT / "benchmarks" / "results" / f"growth_{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer_name", required=True)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(flags.tokenizer_name)
    for name in flags.only.split(","):
        measure, *labels = KINDS[name]
        points = measure(tokenizer, flags.repeats)
        draw(name, points, labels=tuple(labels))
        print(f"{name}: slope {slope(points):.2f}, of the last two {slope(points[-2:]):.2f}")
        for size, value in points:
            print(f"  {size:10.2f} {labels[0]}: {value:9.3f} {labels[1]}", flush=True)
        row = {"what": name, "size": labels[0], "value": labels[1], "points": points}
        row |= {"slope": round(slope(points), 3), "slope_at_end": round(slope(points[-2:]), 3)}
        append_row("growth", {**row, "repeats": flags.repeats})


if __name__ == "__main__":
    main()
