"""Text to batches, side by side with the ways of others, in one process on one core.

    python benchmarks/input_pipeline.py --tokenizer_name FOLDER [--text 'FILES'] [--nano_t5 CLONE]

Three comparisons, each interleaved round by round; the ratio of CPU seconds is taken within a round
and given as minimum, median and maximum:

    corrupt     128 windows of 568 tokens -> 512 inputs, 114 targets
    fetch       the same 128 windows looked up in a large store first
    tokenise    text -> tokens -> windows on disk

A fourth, `--only workers`, tokenises with 0, 1 and 2 processes (--preprocessing_num_workers) and
gives the processor seconds of all of them and those of the clock, for the whole text (repeated
where there is less) and for each further MB: what starting a process costs, and what one adds.

The peers' algorithm (`LoopCollator`) is that of the transformers flax example and of nanoT5, which
took it over: a mask drawn example by example by shuffling a row of booleans, then sentinels by
cumulative sums over the batch. It is written here anew from that description. With --nano_t5 the
module of a clone is measured itself.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from record import append_row  # noqa: E402
from references import (  # noqa: E402
    DENSITY,
    INPUTS,
    MEAN_SPAN,
    TARGETS,
    LoopCollator,
    nano_t5_collator,
)

import cpu_process  # noqa: E402, F401
from corpora_t5 import find_sources, read_documents, read_texts  # noqa: E402
from corruption_t5 import span_corruption  # noqa: E402
from data_collator_t5 import PreTrainingCollator, WindowBatch  # noqa: E402
from model_t5 import load_tokenizer, sentinel_ids  # noqa: E402
from token_files_t5 import TokenFacts, TokenFile, tokenise  # noqa: E402
from windows_t5 import JoinedCuts, Selection, WindowDataset  # noqa: E402

BATCH, RAW = 128, 568
STORE_WINDOWS = 20_000
REPEATS = 5


# ---- timing -------------------------------------------------------------------------------------


def compare(
    name: str, ways: dict[str, Callable], *, rounds: int, repeats: int, unit: str = "ms"
) -> None:
    """Prints and records CPU time of each way and its ratio to the last one, which is ours."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for work in ways.values():
        work()
    for number in range(rounds):
        order = list(ways) if number % 2 else list(ways)[::-1]
        for way in order:
            start = time.process_time()
            for _ in range(repeats):
                ways[way]()
            seconds[way].append((time.process_time() - start) / repeats)
    ours = list(ways)[-1]
    scale = 1000 if unit == "ms" else 1
    print(f"\n{name} (n = {rounds})")
    for way, values in seconds.items():
        ratios = sorted(a / b for a, b in zip(values, seconds[ours], strict=True))
        spread = [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])]
        median = round(scale * statistics.median(values), 3)
        print(f"  {way:<34}{median:>9.2f} {unit}   {spread[1]:>6.2f}x ({spread[0]} - {spread[2]})")
        row = {"compared": name, "way": way, f"median_{unit}": median, "rounds": rounds}
        append_row("input_pipeline", {**row, "ratio_to_ours_min_median_max": spread})


# ---- the comparisons ----------------------------------------------------------------------------


def make_store(folder: Path, tokenizer) -> tuple[TokenFile, datasets.Dataset]:
    """The same random tokens as a token file and as a table of the datasets library on disk."""
    rng = np.random.Generator(np.random.PCG64(0))
    ids = rng.integers(3, len(tokenizer) - 200, STORE_WINDOWS * RAW).astype(np.uint16)
    ids.tofile(folder / "tokens.bin")
    counts = dict.fromkeys(TokenFacts.__dataclass_fields__, 0)
    counts |= {"num_tokens": len(ids), "dtype": "uint16", "lost": {}, "unknown_characters": ""}
    rows = {"input_ids": list(ids.astype(np.int32).reshape(-1, RAW))}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "arrow")
    return TokenFile(folder, TokenFacts(**counts)), datasets.load_from_disk(folder / "arrow")


def compare_corruption(tokenizer, peers: dict[str, Callable], *, folder: Path, rounds: int) -> None:
    tokens, table = make_store(folder, tokenizer)
    objective = span_corruption(
        input_length_tokens=INPUTS,
        noise_density=DENSITY,
        mean_noise_span_length=MEAN_SPAN,
        random_roll=False,
    )
    collator = PreTrainingCollator(
        objective=objective,
        sentinels=sentinel_ids(tokenizer),
        pad_id=tokenizer.pad_token_id,
        eos_id=tokenizer.eos_token_id,
        start_id=tokenizer.pad_token_id,
        seed=0,
    )
    cuts = JoinedCuts(tokens.facts.num_tokens, RAW)
    windows = WindowDataset(tokens, cuts=cuts, selection=Selection(len(cuts)))
    rng = np.random.Generator(np.random.PCG64(1))
    fixed = rng.integers(0, STORE_WINDOWS, BATCH).tolist()
    batch: WindowBatch = windows.__getitems__(fixed)
    rows = [{"input_ids": window.astype(np.int64)} for window in batch.windows]
    assert collator(batch)["input_ids"].shape == (BATCH, INPUTS)
    assert collator(batch)["labels"].shape == (BATCH, TARGETS)
    ways = {name: lambda collate=collate: collate(rows) for name, collate in peers.items()}
    ways["this project"] = lambda: collator(batch)
    compare("corrupt 128 x 568 tokens", ways, rounds=rounds, repeats=REPEATS)

    def some() -> list[int]:
        return rng.integers(0, STORE_WINDOWS, BATCH).tolist()

    ways = {}
    for name, collate in peers.items():
        ways[f"{name}, row by row"] = lambda c=collate: c([table[key] for key in some()])
        ways[f"{name}, rows at once"] = lambda c=collate: c(table.__getitems__(some()))
    ways["this project"] = lambda: collator(windows.__getitems__(some()))
    compare("fetch and corrupt 128 x 568 tokens", ways, rounds=rounds, repeats=REPEATS)


def compare_tokenising(tokenizer, texts: list[str], *, folder: Path, rounds: int) -> None:
    """Stock `map` of the datasets library, in two steps (flax) or one (nanoT5), and ours."""
    table = datasets.Dataset.from_dict({"text": texts})
    datasets.disable_progress_bars()
    turn = iter(range(10**6))

    def pack(rows: Iterable[list[int]]) -> dict:
        ids = list(chain.from_iterable(rows))
        full = len(ids) // RAW * RAW
        return {"input_ids": [ids[first : first + RAW] for first in range(0, full, RAW)]}

    def two_maps() -> None:
        encoded = table.map(
            lambda rows: tokenizer(rows["text"], return_attention_mask=False),
            batched=True,
            remove_columns=["text"],
            cache_file_name=str(folder / f"{next(turn)}.arrow"),
        )
        encoded.map(
            lambda rows: pack(rows["input_ids"]),
            batched=True,
            cache_file_name=str(folder / f"{next(turn)}.arrow"),
        )

    def one_map() -> None:
        def encode(rows: dict) -> dict:
            ids = np.concatenate(tokenizer(rows["text"], return_attention_mask=False)["input_ids"])
            return {"input_ids": ids[: len(ids) // RAW * RAW].reshape(-1, RAW)}

        table.map(
            encode,
            batched=True,
            remove_columns=["text"],
            cache_file_name=str(folder / f"{next(turn)}.arrow"),
        )

    batches = [texts[first : first + 1000] for first in range(0, len(texts), 1000)]

    def ours() -> None:
        tokenise(batches, tokenizer=tokenizer, cache_dir=folder / "ours", key=str(next(turn)))

    ways = {"datasets.map, two steps (flax)": two_maps, "datasets.map, one step (nanoT5)": one_map}
    ways["this project"] = ours
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    name = f"tokenise and pack {megabytes:.1f} MB"
    compare(name, ways, rounds=rounds, repeats=1, unit="s")


def compare_workers(tokenizer, texts: list[str], *, folder: Path, rounds: int) -> None:
    """CPU and clock seconds of all processes, of the whole text and of each MB of its second half.

    The first half pays for starting processes and for the words that are frequent.
    """
    batches = [texts[first : first + 1000] for first in range(0, len(texts), 1000)]
    parts = (batches[: len(batches) // 2], batches)
    megabytes = [sum(len(text.encode()) for b in part for text in b) / 1e6 for part in parts]
    turn = iter(range(10**6))

    def seconds(part: list[list[str]], workers: int) -> np.ndarray:
        before, start = os.times(), time.perf_counter()
        key = f"workers{next(turn)}"
        tokenise(part, tokenizer=tokenizer, cache_dir=folder, key=key, num_workers=workers)
        return np.array([sum(os.times()[:4]) - sum(before[:4]), time.perf_counter() - start])

    found: dict[int, list] = {workers: [] for workers in (0, 1, 2)}
    for _ in range(rounds):
        for workers, rows in found.items():
            half, whole = (seconds(part, workers) for part in parts)
            rows.append([*whole, *(whole - half) / (megabytes[1] - megabytes[0])])
    print(f"\ntokenise {megabytes[1]:.1f} MB by processes (n = {rounds})")
    for workers, rows in found.items():
        cpu, clock, cpu_each, clock_each = np.median(rows, axis=0).round(4).tolist()
        print(
            f"  {workers} processes {cpu:7.2f} CPU s {clock:7.2f} s on the clock; for each further "
            f"MB {cpu_each:.3f} and {clock_each:.3f}"
        )
        row = {"compared": "workers", "workers": workers, "megabytes": round(megabytes[1], 1)}
        row |= {"median_cpu_s": cpu, "median_clock_s": clock, "rounds": rounds}
        row |= {
            "median_cpu_s_per_further_mb": cpu_each,
            "median_clock_s_per_further_mb": clock_each,
        }
        append_row("input_pipeline", {**row, "load": round(os.getloadavg()[0], 1)})


def some_texts(files: str | None, *, num_bytes: int) -> list[str]:
    """Paragraphs of files, else of the documentation that the installed packages bring along."""
    if files:
        batches = chain.from_iterable(map(read_documents, find_sources(files=files)))
        documents = chain.from_iterable(batch.texts for batch in batches)
    else:
        documents = read_texts(dataset_paths="installed_docs")
    texts: list[str] = []
    left = num_bytes
    for text in documents:
        if not text.strip():
            continue
        texts.append(text)
        left -= len(text.encode())
        if left <= 0:
            break
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer_name", required=True)
    parser.add_argument("--text", help="files to tokenise; default: installed_docs")
    parser.add_argument("--megabytes", type=float, default=2.0, help="text to tokenise")
    parser.add_argument("--nano_t5", type=Path, help="a clone of nanoT5 to measure itself")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", choices=["corrupt", "tokenise", "workers"])
    flags = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(flags.tokenizer_name)
    peers = {
        "nanoT5's algorithm": LoopCollator(tokenizer, shift=False),
        "flax example's algorithm": LoopCollator(tokenizer, shift=True),
    }
    if flags.nano_t5:
        peers = {"nanoT5 itself": nano_t5_collator(flags.nano_t5, tokenizer), **peers}
    asked = [flags.only] if flags.only else ["corrupt", "tokenise"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "corrupt" in asked:
            compare_corruption(tokenizer, peers, folder=folder, rounds=flags.rounds)
        if "tokenise" in asked or "workers" in asked:
            texts = some_texts(flags.text, num_bytes=int(flags.megabytes * 1e6))
        if "tokenise" in asked:
            compare_tokenising(tokenizer, texts, folder=folder, rounds=flags.rounds)
        if "workers" in asked:
            found_mb = sum(len(text.encode()) for text in texts) / 1e6
            texts *= max(1, round(flags.megabytes / found_mb))
            compare_workers(tokenizer, texts, folder=folder, rounds=flags.rounds)


if __name__ == "__main__":
    main()
