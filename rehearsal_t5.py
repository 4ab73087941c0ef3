"""A run in small, which says what the whole one will cost: two steps, an evaluation, a checkpoint.

    --dry_run    the same program with the same flags, but --max_steps 2, a sample of the data, no
                 tracker and no remote, in OUTPUT_DIR/.dry_run, which is removed
    steps        counted from the real flags and the real data
    time         what the second step, a held-out example and a checkpoint took, times their number

The first step is not counted: it reserves memory and warms up.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, TrainerCallback

from corpora_t5 import Source
from errors import UserError
from plan_t5 import GIGABYTE
from preflight_t5 import SAMPLE_CHARACTERS, device_memory, sample_documents
from progress_t5 import peak_memory_gb
from readers import CHUNK_BYTES
from token_files_t5 import Encoder

NUM_STEPS = 2
FOLDER = ".dry_run"
CHARACTERS_PER_TOKEN = 6  # more than any language has; what is too much is not read
MOST_CHARACTERS = 1 << 26
LEAST_BYTES = 16 * CHUNK_BYTES  # of each file; files are read ahead in chunks
NUM_PIECES = 64  # of a sample, at least: a stream holds out whole documents
# What a rehearsal does otherwise than the run it stands for.
OVERRIDES = {
    "dry_run": False,
    "show_examples": 0,
    "max_steps": NUM_STEPS,
    "num_train_epochs": 3.0,
    "logging_steps": 1,
    "eval_strategy": "no",  # once at the end, as every run does
    "load_best_model_at_end": False,
    "save_strategy": "steps",
    "save_steps": NUM_STEPS,
    "report_to": "none",
    "remote_checkpoint_dir": None,
    "push_to_hub": False,
    "resume_from_checkpoint": "none",
    "stop_after_hours": None,
    "disable_tqdm": True,
}


# ---- the folder ---------------------------------------------------------------------------------


@contextlib.contextmanager
def rehearsal_folder(output_dir: str, *, is_main: bool) -> Iterator[Path]:
    """A folder in the output folder, on the disk that the run will write to; nothing stays."""
    folder = Path(output_dir) / FOLDER
    if "," in str(folder):
        raise UserError(
            f"--dry_run: --output_dir {output_dir} has a comma, and the dry run names files there "
            "in a list with commas. Give another --output_dir."
        )
    made = [path for path in folder.parents if not path.exists()]
    if is_main:
        shutil.rmtree(folder, ignore_errors=True)  # of a rehearsal that was killed
    try:
        yield folder
    finally:
        if is_main:
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()


# ---- a sample of a corpus -----------------------------------------------------------------------


@dataclass(frozen=True)
class SampledCorpus:
    """The first text of some sources in files, and how many tokens they have; None: unknown."""

    paths: tuple[Path, ...]
    num_tokens: int | None

    @property
    def files(self) -> str | None:
        """As --train_file takes them."""
        return ",".join(map(str, self.paths)) or None

    def num_windows(self, window_tokens: int) -> int | None:
        """About so many windows the sources fill."""
        return None if self.num_tokens is None else max(1, self.num_tokens // window_tokens)


def sample_corpus(
    sources: Mapping[str, Sequence[Source]],
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    enough_tokens: Mapping[str, int],
    is_main: bool,
) -> dict[str, SampledCorpus]:
    """{role: a file for each of its sources}, so many tokens in all; `is_main` writes them."""
    samples = {}
    for role, of_role in sources.items():
        paths = tuple(folder / f"{role}_{number}.jsonl" for number in range(len(of_role)))
        counts: list[int | None] = [None]
        if is_main:
            counts = [
                _sample(
                    source,
                    path,
                    tokenizer=tokenizer,
                    enough_tokens=-(-enough_tokens[role] // len(of_role)),
                )
                for source, path in zip(of_role, paths, strict=True)
            ]
        samples[role] = SampledCorpus(paths, None if None in counts else sum(counts))
    return samples


def _sample(
    source: Source, path: Path, *, tokenizer: PreTrainedTokenizerBase, enough_tokens: int
) -> int | None:
    """Writes tokens of a source as rows of {column: text}; returns how many the whole has."""
    most = min(enough_tokens * CHARACTERS_PER_TOKEN, MOST_CHARACTERS)
    is_streamed = any(part.is_on_hub() for part in source.parts)
    sample = sample_documents(
        source, is_streamed=is_streamed, most_characters=most, least_bytes=LEAST_BYTES
    )
    documents = sample.documents
    size = max(1, -(-sum(map(len, documents)) // NUM_PIECES))
    pieces = [text[i : i + size] for text in documents for i in range(0, max(len(text), 1), size)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({source.column: piece}) + "\n" for piece in pieces)
    file_bytes = source.num_file_bytes()
    if not file_bytes or not sample.read_bytes:
        return None
    some, num_characters = [], 0
    for text in documents:
        if num_characters < SAMPLE_CHARACTERS:
            some.append(text[:SAMPLE_CHARACTERS])
            num_characters += len(some[-1])
    tokens_each = len(Encoder(tokenizer)(some).ids) / max(num_characters, 1)
    read_share = min(sample.read_bytes, file_bytes) / file_bytes
    return round(tokens_each * sample.read_characters / read_share)


# ---- the run in small ---------------------------------------------------------------------------


class StepClock(TrainerCallback):
    """Times the steps and the checkpoint of a run from outside, on a GPU when they are done."""

    def __init__(self):
        self.step_ends: list[float] = []
        self.save_seconds = 0.0
        self.batches_per_epoch: int | None = None
        self.tokens_seen: list[int] = []
        self.output_dir: Path | None = None

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.output_dir = Path(args.output_dir)
        with contextlib.suppress(TypeError):
            self.batches_per_epoch = len(train_dataloader)

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.step_ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "tokens_seen" in (logs or {}):
            self.tokens_seen.append(logs["tokens_seen"])

    def on_save(self, args, state, control, **kwargs):
        if self.step_ends:
            self.save_seconds = time.perf_counter() - self.step_ends[-1]


@dataclass(frozen=True)
class Measured:
    """What a rehearsal took: seconds, bytes, tokens; None where it did not come to that."""

    seconds: float
    step_seconds: float | None
    step_tokens: int | None
    batches_per_epoch: int | None
    save_seconds: float
    checkpoint_bytes: int
    model_bytes: int
    eval_seconds_each: float | None
    eval_examples: int
    test_seconds_each: float | None
    test_examples: int
    peak_bytes: int


def rehearse(
    main: Callable[..., dict],
    argv: Sequence[str] | None,
    *,
    folder: Path,
    changes: Mapping[str, object],
    device: torch.device,
) -> Measured:
    """Runs `main` in small; what it prints is not shown, what it logs as a warning is."""
    clock = StepClock()
    words = list(sys.argv[1:] if argv is None else argv)
    settings = {**OVERRIDES, "output_dir": folder / "out", **changes}
    words += [f"--{name}={value}" for name, value in settings.items()]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about the sample; logged ones stay
            metrics = main(words, callbacks=[clock])
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The rehearsal ran out of memory: {str(error).splitlines()[0]} Give a smaller "
            "--per_device_train_batch_size or --gradient_checkpointing; --plan shows what each "
            "engine needs."
        ) from error
    PartialState().wait_for_everyone()  # before the folder is taken from under them
    ends, tokens = clock.step_ends, clock.tokens_seen
    checkpoint = clock.output_dir and clock.output_dir / f"checkpoint-{NUM_STEPS}"
    evaluated, tested = (_examples_and_seconds(metrics, prefix) for prefix in ("eval", "test"))
    return Measured(
        seconds=time.perf_counter() - began,
        step_seconds=ends[-1] - ends[-2] if len(ends) > 1 else None,
        step_tokens=round(tokens[-1] / len(tokens)) if tokens else None,
        batches_per_epoch=clock.batches_per_epoch,
        save_seconds=clock.save_seconds,
        checkpoint_bytes=_bytes_in(checkpoint) if checkpoint else 0,
        model_bytes=_model_bytes(clock.output_dir) if clock.output_dir else 0,
        eval_seconds_each=evaluated[1] / evaluated[0] if evaluated[0] else None,
        eval_examples=evaluated[0],
        test_seconds_each=tested[1] / tested[0] if tested[0] else None,
        test_examples=tested[0],
        peak_bytes=round(peak_memory_gb(device) * GIGABYTE),
    )


def _examples_and_seconds(metrics: Mapping[str, float], prefix: str) -> tuple[int, float]:
    """Of all sets whose metrics begin so."""
    examples = seconds = 0.0
    for name, value in metrics.items():
        if name.startswith(prefix) and name.endswith("_runtime"):
            rate = metrics[name.removesuffix("_runtime") + "_samples_per_second"]
            seconds += value
            examples += value * rate
    return round(examples), seconds


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _model_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


# ---- the whole run ------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeRun:
    """What the real run will do; None where only its data can say."""

    num_steps: int | None
    examples_per_step: int
    num_evaluations: int
    eval_examples: int | None
    test_examples: int | None
    num_saves: int
    num_kept: int | None


def whole_seconds(run: WholeRun, measured: Measured) -> dict[str, float]:
    """{part: seconds} of the parts that are known."""
    parts = {}
    if run.num_steps is not None and measured.step_seconds is not None:
        parts["training"] = run.num_steps * measured.step_seconds
        parts["saving"] = run.num_saves * measured.save_seconds
    if run.eval_examples is not None and measured.eval_seconds_each is not None:
        parts["evaluating"] = run.num_evaluations * run.eval_examples * measured.eval_seconds_each
    if run.test_examples is not None and measured.test_seconds_each is not None:
        parts["predicting"] = run.test_examples * measured.test_seconds_each
    return parts


def tell_cost(
    measured: Measured, *, device: torch.device, prints: bool, **run: object
) -> dict[str, float]:
    """Prints what the whole run will cost, and returns its parts in seconds; `run` is a WholeRun.

    `dry_run_seconds` is their sum.
    """
    whole = WholeRun(**run)
    parts = whole_seconds(whole, measured)
    if prints:
        _, memory_bytes = device_memory(device, num_sharing=1)
        print(describe_cost(whole, measured, memory_bytes=memory_bytes), flush=True)
    seconds = {f"dry_run_{name}_seconds": value for name, value in parts.items()}
    return {**seconds, "dry_run_seconds": sum(parts.values())}


def at_most(number: int | None, limit: int | None) -> int | None:
    """The smaller of the two; what is not known (or has no limit) counts for nothing."""
    known = [value for value in (number, limit) if value is not None]
    return min(known, default=None)


def describe_cost(run: WholeRun, measured: Measured, *, memory_bytes: float) -> str:
    """What was rehearsed, and steps, tokens, time, disk and memory of the whole run."""
    did = [f"{NUM_STEPS} steps"] if measured.step_seconds is not None else []
    did += [f"{measured.eval_examples:,} examples evaluated"] * bool(measured.eval_examples)
    did += [f"{measured.test_examples:,} predicted"] * bool(measured.test_examples)
    did += ["a checkpoint and the model saved"] * bool(measured.checkpoint_bytes)
    lines = [f"rehearsal  {', '.join(did) or 'nothing to measure'}, in {measured.seconds:.1f} s"]
    if measured.step_seconds is not None:
        steps = "as many steps as the data has" if run.num_steps is None else f"{run.num_steps:,}"
        line = f"steps      {steps} of {run.examples_per_step:,} examples"
        if run.num_steps is not None and measured.step_tokens:
            total = run.num_steps * measured.step_tokens
            line += f", {measured.step_tokens:,} tokens each: {total:,} tokens"
        lines.append(line)
    parts = whole_seconds(run, measured)
    if parts:
        named = " + ".join(f"{_duration(seconds)} {name}" for name, seconds in parts.items())
        each = "" if measured.step_seconds is None else f"{measured.step_seconds:.3g} s/step; "
        lines.append(f"time       {each}{named} = {_duration(sum(parts.values()))}")
    if run.num_evaluations and run.eval_examples is not None:
        lines.append(
            f"           {run.num_evaluations} evaluations of {run.eval_examples:,} examples, "
            f"{run.num_saves} checkpoints"
        )
    if run.num_evaluations and run.eval_examples is None and measured.eval_seconds_each:
        lines.append(
            f"           and {run.num_evaluations} evaluations, "
            f"{_duration(1000 * measured.eval_seconds_each)} for each 1,000 held-out examples: how "
            "many there are is known once the corpus is read"
        )
    if measured.checkpoint_bytes:
        kept = run.num_saves if run.num_kept is None else min(run.num_kept, run.num_saves)
        total = (kept + 1) * measured.checkpoint_bytes + measured.model_bytes
        lines.append(
            f"disk       {total / GIGABYTE:.2f} GB: {kept} checkpoints of "
            f"{measured.checkpoint_bytes / GIGABYTE:.2f} GB, the next one, the model"
        )
    lines.append(
        f"memory     {measured.peak_bytes / GIGABYTE:.2f} GB at most in the rehearsal, of "
        f"{memory_bytes / GIGABYTE:.1f}"
    )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """45.2 s, 12.3 min, 7.5 hours, 3.2 days"""
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "hours"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'hours': 3600, 'min': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.1f} s"
