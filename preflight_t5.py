"""What can be known to go wrong, looked for in one pass before any long work, and said together.

    checks = Preflight()
    with checks("disk") as found:          one check: whatever UserError it raises is a problem,
        require_room(...)                  the next check goes on
        found.say("2.4 GB of 120")         what is right
        found.warn("...")                  what works and is probably not wanted
    checks.conclude(...)                   prints; one UserError with all problems

Each check is one function here or the one that the work itself would stop at; the scripts list
them. Samples are small (2,000 rows of a split, 256 kB of a corpus): what lies behind them is found
while it is read.
"""

from __future__ import annotations

import configparser
import contextlib
import math
import netrc
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch
from accelerate.utils import gather_object
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from checkpoints_t5 import whole_checkpoints
from corpora_t5 import CORPORA, Source, read_documents
from errors import Problems, SaidElsewhere, UserError
from hub import use_hub
from loss_t5 import CHUNK_BYTES
from model_t5 import EMBEDDING_MULTIPLE, shape_of
from plan_t5 import ENGINES, GIGABYTE, Model, Need, count_parameters, plan_model
from remote_checkpoints_t5 import RemoteCheckpoints
from task_sets_t5 import Sources
from tasks import Task
from token_files_t5 import MOST_UNKNOWN_SHARE, Encoder
from zero_t5 import read_zero, zero_stage

SAMPLE_ROWS = 2000  # of each split; they become text, and their labels are looked up
SAMPLE_ENCODED_ROWS = 500  # of these, the lengths in tokens
SAMPLE_CHARACTERS = 1 << 18
SAMPLE_PARTS = 8  # files of a source that are looked into, evenly spread
MOST_TRUNCATED_SHARE = {"inputs": 0.05, "targets": 0.01}
LENGTH_PERCENTILE = 99
LENGTH_MULTIPLE = 8
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
WEIGHTS += ("pytorch_model.bin.index.json",)
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


# ---- checks in a row ----------------------------------------------------------------------------


@dataclass
class Findings:
    """What one check says."""

    said: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Preflight:
    """Runs checks one after the other and remembers what each found."""

    def __init__(self):
        self.found: dict[str, Findings] = {}
        self.problems = Problems()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Findings]:
        """One check; a UserError inside is a problem, and the code behind it goes on."""
        findings = Findings()
        with self.problems:
            yield findings
            self.found[name] = findings

    def warnings(self) -> list[str]:
        return [f"{name}: {text}" for name, f in self.found.items() for text in f.warnings]

    def summary(self) -> str:
        """preflight  ok 12, warnings 1"""
        num_warned = sum(bool(findings.warnings) for findings in self.found.values())
        words = [f"ok {len(self.found) - num_warned}", f"warnings {len(self.warnings())}"]
        if self.problems.found:
            words.append(f"problems {len(self.problems.found)}")
        return f"preflight  {', '.join(words)}"

    def table(self) -> str:
        """The summary, and one line for each check that said something."""
        width = max(map(len, self.found), default=0)
        lines = [f"  {n:<{width}}  {'; '.join(f.said)}" for n, f in self.found.items() if f.said]
        return "\n".join([self.summary(), *lines])

    def conclude(self, *, rank: int, num_ranks: int, in_full: bool) -> None:
        """Prints on rank 0; a UserError with the problems of all ranks, quiet on the others.

        Every rank must call it, those that checked nothing as well.
        """
        mine = [(rank, self.problems.found, self.warnings())]
        everywhere = gather_object(mine) if num_ranks > 1 else mine
        if rank == 0:
            print(self.table() if in_full else self.summary(), flush=True)
            for text in _from_ranks({of: warnings for of, _, warnings in everywhere}):
                print(f"warning    {text}", flush=True)
        problems = Problems()
        for text in _from_ranks({of: found for of, found, _ in everywhere}):
            problems.add(text)
        try:
            problems.raise_all()
        except UserError as error:
            if rank != 0:
                raise SaidElsewhere(str(error)) from None
            raise


def _from_ranks(texts: Mapping[int, Sequence[str]]) -> list[str]:
    """Each text once; what rank 0 does not say is named by who says it."""
    said = list(texts[0])
    for rank, others in texts.items():
        said += [f"rank {rank}: {text}" for text in others if rank and text not in texts[0]]
    return said


# ---- text ---------------------------------------------------------------------------------------


def check_text(
    found: Findings, source: Source, *, tokenizer: PreTrainedTokenizerBase | None, is_streamed: bool
) -> None:
    """Reads into a source: its files open, its column is there, its characters have tokens."""
    if any(part.path in CORPORA and not part.is_file for part in source.parts):
        found.say(f"{source.label}: known by name")
        return
    is_on_hub = any(part.is_on_hub() for part in source.parts)
    if is_on_hub and not use_hub():
        return  # `check_hub` says so
    documents = sample_documents(source, is_streamed=is_streamed or is_on_hub).documents
    if tokenizer is None or not documents:
        return
    encoded = Encoder(tokenizer)(documents)
    num_tokens = max(len(encoded.ids), 1)
    share = encoded.counts["num_unknown_tokens"] / num_tokens
    bytes_each = encoded.counts["num_bytes"] / num_tokens
    found.say(f"{source.label}: {bytes_each:.2f} bytes per token, {share:.2%} unknown")
    if share > MOST_UNKNOWN_SHARE:
        shown = " ".join(c for c, _ in encoded.unknown_characters.most_common(12))
        found.warn(
            f"{share:.1%} of the tokens in {source.label} are <unk>"
            f"{f', for characters such as {shown}' if shown else ''}. A tokenizer made from this "
            "text by train_tokenizer_t5.py knows them."
        )


@dataclass(frozen=True)
class Sample:
    """Documents from the beginning of a source's parts, and what was read to get them."""

    documents: list[str]
    read_characters: int
    read_bytes: int


def sample_documents(
    source: Source,
    *,
    is_streamed: bool,
    most_characters: int = SAMPLE_CHARACTERS,
    least_bytes: int = 0,
) -> Sample:
    """The first documents of some of the source's parts; files that do not open are mistakes.

    A file is read on for `least_bytes` so that what was read of it can be told from the read-ahead.
    """
    for part in source.parts:
        if part.is_file and not os.access(part.path, os.R_OK):
            raise UserError(f"{part.path} cannot be read: no permission. Type chmod +r on it.")
    places = np.linspace(0, len(source.parts) - 1, min(SAMPLE_PARTS, len(source.parts)))
    parts = [source.parts[int(place)] for place in places]
    documents: list[str] = []
    read: list[int] = []
    read_characters = 0
    for part in parts:
        budget = most_characters // len(parts)
        of_part, before = replace(source, parts=(part,)), sum(read)
        for batch in read_documents(of_part, streaming=is_streamed, on_bytes=read.append):
            read_characters += sum(map(len, batch.texts))
            for text in batch.texts:
                documents += [text[:budget]] if budget else []
                budget -= min(len(text), budget)
            if not budget and (not part.is_file or sum(read) - before >= least_bytes):
                break
    return Sample(documents, read_characters, sum(read))


# ---- rows ---------------------------------------------------------------------------------------


class RowLengths(NamedTuple):
    """The longest input and target of some rows as they would be cut, and tokens of both on
    average, EOS included."""

    input_tokens: int
    target_tokens: int
    mean_tokens: float

    def num_like_longest(self, num_examples: int, *, tokens_per_batch: int | None) -> int:
        """The longest examples that fit a token budget; None: that of so many mean examples."""
        budget = tokens_per_batch or num_examples * self.mean_tokens
        return math.ceil(budget / (self.input_tokens + self.target_tokens))


def check_rows(
    found: Findings,
    task: Task,
    *,
    sources: Sources,
    role: str,
    tokenizer: PreTrainedTokenizerBase | None,
    input_length_tokens: int,
    target_length_tokens: int,
) -> RowLengths | None:
    """How long a split's first rows are; None: not here.

    Every row must have its columns, and a label that the task knows.
    """
    most = sources.most[role]
    some = replace(sources, most={role: min(SAMPLE_ROWS, most or SAMPLE_ROWS)})
    if sources.is_on_hub(task, role):
        found.say("on the Hub: looked at when they are read")
        return None
    longest = None
    for split, rows in some.splits(task, role=role) if role in task.splits else ():
        is_hidden = any(task.is_hidden(row) for row in rows)
        rows = rows[:SAMPLE_ENCODED_ROWS]
        if tokenizer is None or not rows:
            continue
        texts = {"inputs": [task.input_text(row) for row in rows]}
        if not is_hidden:
            texts["targets"] = [task.target_text(row) for row in rows]
        limits = {"inputs": input_length_tokens, "targets": target_length_tokens}
        lengths = {
            name: _check_lengths(
                found, f"{split} {name}", texts[name], tokenizer=tokenizer, limit=limits[name]
            )
            for name in texts
        }
        found_here = (
            max(lengths["inputs"]),
            max(lengths.get("targets", [0])),
            sum(statistics.fmean(of_side) for of_side in lengths.values()),
        )
        longest = RowLengths(*map(max, found_here, longest or found_here))
    return longest


def _check_lengths(
    found: Findings,
    name: str,
    texts: list[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
) -> list[int]:
    """Tokens of each text, EOS included, the limit at most."""
    side = name.rpartition(" ")[2]
    flag = {"inputs": "--input_seq_length", "targets": "--target_seq_length"}[side]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = [len(row) + 1 for row in ids]
    truncated = statistics.fmean(length > limit for length in lengths)
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) / max(sum(lengths), 1)
    found.say(f"{name} up to {max(lengths)} tokens, {truncated:.1%} truncated")
    if truncated > MOST_TRUNCATED_SHARE[side]:
        enough = np.percentile(lengths, LENGTH_PERCENTILE)
        enough = int(-(-enough // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
        found.warn(
            f"{truncated:.1%} of the {name} are longer than {flag} {limit} and lose their end "
            f"(first {len(texts):,} rows). {flag} {enough} holds {LENGTH_PERCENTILE} % of them."
        )
    if unknown > MOST_UNKNOWN_SHARE:
        found.warn(
            f"{unknown:.1%} of the tokens in the {name} are <unk> (first {len(texts):,} rows). "
            "Give a --tokenizer_name that knows this text."
        )
    return [min(length, limit) for length in lengths]


# ---- the network --------------------------------------------------------------------------------


def check_hub(found: Findings, *, models: Sequence[str] = (), datasets: Sequence[str] = ()) -> None:
    """Refuses weights and data sets that would come from the Hub where it does not answer.

    A model or data set that an earlier run has left in the library's cache is there.
    """
    names = [*models, *datasets]
    if not names:
        return
    if use_hub():
        found.say(f"{', '.join(names)} from the Hub")
        return
    missing = [name for name in models if not _is_cached_model(name)]
    missing += [name for name in datasets if not _is_cached_dataset(name)]
    if missing:
        raise UserError(
            f"The Hugging Face Hub does not answer, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not here. Give folders and files "
            "(--model_name_or_path FOLDER, --train_file FILE, --data_dir DIR), or fetch them "
            "where there is a network: the cache is $HF_HOME."
        )
    found.say(f"{', '.join(names)} from the cache of the Hub, which does not answer")


def _is_cached_model(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file), str) for file in WEIGHTS)


def _is_cached_dataset(name: str) -> bool:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___")).is_dir()


def check_wandb_login(
    found: Findings, trackers: Sequence[str], *, environment: Mapping[str, str], home: Path
) -> None:
    """Refuses a W&B run that would stop and ask for a key; asks no server whether a key is good."""
    if "wandb" not in trackers:
        found.say(", ".join(trackers) or "none")
        return
    told = _wandb_settings(environment, home=home)
    mode = environment.get("WANDB_MODE") or told.get("mode", "online")
    if mode in ("offline", "disabled", "dryrun"):
        found.say(f"wandb, mode {mode}")
        return
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        found.say("wandb, with a key of the environment")
        return
    url = environment.get("WANDB_BASE_URL") or told.get("base_url", "https://api.wandb.ai")
    host = urlsplit(url).netloc
    places = [environment.get("NETRC"), home / ".netrc", home / "_netrc"]
    for place in filter(None, places):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            keys = netrc.netrc(str(place))
            if keys.authenticators(host) or keys.authenticators(urlsplit(url).hostname):
                found.say(f"wandb, with the key of {place}")
                return
    raise UserError(
        f"--report_to wandb: no key for {host} is in WANDB_API_KEY or {home / '.netrc'}. Type "
        "wandb login, or export WANDB_MODE=offline (wandb sync sends the run later), or leave "
        "--report_to out."
    )


def _wandb_settings(environment: Mapping[str, str], *, home: Path) -> Mapping[str, str]:
    """What `wandb login --host` and `wandb offline` have written down, for all and for here."""
    root = Path(environment.get("WANDB_DIR") or ".")
    parser = configparser.ConfigParser(interpolation=None)
    for folder in (
        Path(environment.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb"),
        root / (".wandb" if (root / ".wandb").exists() else "wandb"),
    ):
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(folder / "settings")
    return parser["default"] if parser.has_section("default") else {}


# ---- the machine --------------------------------------------------------------------------------


def check_machine(
    checks: Preflight,
    *,
    model: Mapping[str, object],
    num_tokens: int | None,
    input_tokens: int,
    target_tokens: int,
    datasets: Sequence[str],
    makes_model: bool,
    trains_adapters: bool,
    trains: bool,
    output_dir: str,
    trackers: Sequence[str],
    remote_url: str | None,
    device: torch.device,
    num_ranks: int,
    num_ranks_here: int,
    bf16: bool,
    fp16: bool,
    computes_bf16: bool,
    examples_per_device: int,
    optimizer: str,
    gradient_checkpointing: bool,
    deepspeed: str | None,
    is_fsdp: bool,
    saves_optimizer: bool,
    num_kept: int,
) -> None:
    """Whatever a run needs besides its data. `model` is what `model_t5.shape_of` takes.

    `num_tokens` is the size of the tokenizer, None where there is none.
    """
    shape = None
    with checks("data sets") as found:
        check_hub(found, datasets=sorted({*datasets}))
    if not makes_model:
        return
    with checks("model") as found:
        loads = not model["shape"] and not Path(model["name_or_path"]).is_dir()
        check_hub(found, models=[model["name_or_path"]] if loads else [])
        shape = shape_of(**model, use_cpu=device.type == "cpu")
    with checks("tracker") as found:
        check_wandb_login(found, trackers, environment=os.environ, home=Path.home())
    with checks("remote") as found:
        if remote_url is not None:
            found.say(RemoteCheckpoints(remote_url).name)
    with checks("precision") as found:
        check_precision(found, bf16=bf16, fp16=fp16, device=device, computes_bf16=computes_bf16)
    engine = plan_engine(deepspeed, is_fsdp=is_fsdp)
    if shape is None or not trains:
        return
    model_class, config = shape
    if model["shape"] and num_tokens is not None:
        config.vocab_size = -(-num_tokens // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    numbers = None
    with checks("memory") as found:
        free, total = device_memory(device, num_sharing=num_ranks_here)
        numbers = check_memory(
            found,
            model_class,
            config,
            num_examples=examples_per_device,
            input_tokens=input_tokens,
            target_tokens=target_tokens,
            bf16=bf16,
            optimizer=optimizer,
            gradient_checkpointing=gradient_checkpointing,
            use_cpu=device.type == "cpu",
            engine=engine,
            num_ranks=num_ranks,
            trains_adapters=trains_adapters,
            free_bytes=free,
            total_bytes=total,
        )
    with checks("disk") as found:
        if numbers is not None and Path(output_dir).is_dir() and not trains_adapters:
            weights = 4 * numbers.num_parameters
            check_disk(
                found,
                Path(output_dir),
                checkpoint_bytes=weights + (numbers.state_bytes if saves_optimizer else 0),
                model_bytes=weights,
                num_kept=num_kept,
            )


def check_precision(
    found: Findings, *, bf16: bool, fp16: bool, device: torch.device, computes_bf16: bool
) -> None:
    """Says what is computed in; warns where the device only imitates it."""
    name = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    found.say(f"{name} on {device.type}")
    if bf16 and not computes_bf16:
        found.warn(
            f"--bf16: this {device.type} has no bfloat16 arithmetic and imitates it, slower than "
            "float32. Leave --bf16 out."
        )
    if fp16 and device.type == "cpu":
        raise UserError("--fp16 on a CPU: float16 is for GPUs. Leave --fp16 out.")
    if fp16:
        found.warn("--fp16: T5's activations overflow in float16 from base size on; the loss ends.")


def plan_engine(deepspeed: str | None, *, is_fsdp: bool) -> str:
    """The name in `plan_t5.ENGINES` of what this run shares its weights with."""
    if not deepspeed:
        return "FSDP" if is_fsdp else "DDP"
    settings = read_zero(deepspeed)
    stage = zero_stage(settings)
    device = settings.get("zero_optimization", {}).get("offload_optimizer", {}).get("device")
    offloads = stage >= 2 and device not in (None, "none")
    return f"ZeRO-{stage}{' offload' if offloads else ''}" if stage else "DDP"


def rough_model(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    num_examples: int,
    input_tokens: int,
    target_tokens: int,
    bf16: bool,
    optimizer: str,
) -> Model:
    """`plan_t5.plan_model` without its traced step: never less, in milliseconds.

    A multiple of what each block keeps for its backward pass, in 4 bytes each: `test_preflight_t5`
    compares it with the trace.
    """
    with torch.device("meta"):
        model = model_class(config)
    counted = count_parameters(model, optimizer=optimizer, bf16=bf16)
    heads, width, inner = config.num_heads, config.d_model, config.num_heads * config.d_kv

    def kept(tokens: int, *, attended: Sequence[int]) -> int:
        squares = sum(4 * heads * tokens * other for other in attended)
        crossed = sum(4 * inner * (tokens + other) for other in attended)
        return squares + crossed + tokens * 8 * (width + config.d_ff)

    encoder = len(model.encoder.block) * kept(input_tokens, attended=[input_tokens])
    decoder = len(model.decoder.block) * kept(target_tokens, attended=[target_tokens, input_tokens])
    # A chunk's logits, three times.
    logits = 3 * min(4 * num_examples * target_tokens * config.vocab_size, CHUNK_BYTES)
    # The position biases of both stacks, and their gradients, do not grow with the batch.
    biases = 4 * heads * (input_tokens**2 + target_tokens**2)
    gathered = 4 * width * (input_tokens + target_tokens)
    activations = 4 * (num_examples * (encoder + decoder + gathered) + biases) + logits
    # Gradients of the embedding by both stacks and their sum, and of the head.
    activations += 4 * 4 * config.vocab_size * width
    activations += 2 * counted.num_parameters if bf16 else 0  # the weights' copies under autocast
    plain = activations + 4 * counted.num_parameters
    return replace(counted, plain_bytes=plain, shared_bytes=activations)


def check_memory(
    found: Findings,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    num_examples: int,
    input_tokens: int,
    target_tokens: int,
    bf16: bool,
    optimizer: str,
    gradient_checkpointing: bool,
    use_cpu: bool,
    engine: str,
    num_ranks: int,
    trains_adapters: bool,
    free_bytes: float,
    total_bytes: float,
) -> Model:
    """Refuses a step that is larger than the device; returns the model's numbers.

    The step is traced, as --plan does it, only where the rough count does not fit.
    """
    shape = {
        "num_examples": num_examples,
        "input_tokens": input_tokens,
        "target_tokens": target_tokens,
        "bf16": bf16,
        "optimizer": optimizer,
    }

    def need_of(model: Model) -> Need:
        need = ENGINES[engine](model, num_ranks)
        frozen = {"gradients": 0, "states": 0, "buffers": 0}
        return replace(need, **frozen) if trains_adapters else need

    model, at_most = rough_model(model_class, config, **shape), "at most "
    if need_of(model).total > free_bytes:
        model = plan_model(
            model_class,
            config,
            gradient_checkpointing=gradient_checkpointing,
            use_cpu=use_cpu,
            engine=engine,
            **shape,
        )
        at_most = ""
    need = need_of(model)
    found.say(
        f"{at_most}{need.total / GIGABYTE:.2f} GB of {free_bytes / GIGABYTE:.1f} free "
        f"({model.num_parameters:,} parameters, {engine})"
    )
    words = (
        f"a step of {num_examples} examples needs {need.total / GIGABYTE:.1f} GB under {engine} "
        f"({need.activations / GIGABYTE:.1f} of them grow with the batch)"
    )
    remedy = (
        "Give a smaller --per_device_train_batch_size (--global_batch_size keeps the sum), "
        "--gradient_checkpointing, or an engine that shares: --plan shows what each needs."
    )
    if need.total > total_bytes:
        raise UserError(
            f"Memory: {words}, and the device has {total_bytes / GIGABYTE:.1f}. {remedy}"
        )
    if need.total > free_bytes:
        found.warn(f"{words}, and {free_bytes / GIGABYTE:.1f} GB are free now. {remedy}")
    return model


def device_memory(device: torch.device, *, num_sharing: int) -> tuple[float, float]:
    """(free, total) bytes for one process of those `num_sharing` that share the memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    total = min(memory.total, _cgroup_limit())
    return min(memory.available, total) / num_sharing, total / num_sharing


def _cgroup_limit() -> float:
    """What a container or a Slurm job may use."""
    try:
        text = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return float("inf")
    return float(text) if text.isdigit() else float("inf")


def check_disk(
    found: Findings,
    folder: Path,
    *,
    checkpoint_bytes: float,
    model_bytes: float,
    num_kept: int,
    free_bytes: float | None = None,
) -> None:
    """Refuses a disk without room for the checkpoints kept, the next one, and the final model.

    What earlier checkpoints in the folder take is room that will be free again.
    """
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    old = sum(
        path.stat().st_size
        for checkpoint in whole_checkpoints(folder)
        for path in checkpoint.rglob("*")
        if path.is_file()
    )
    needed = (num_kept + 1) * checkpoint_bytes + model_bytes
    words = (
        f"{needed / GIGABYTE:.2f} GB for {num_kept} checkpoints of "
        f"{checkpoint_bytes / GIGABYTE:.2f} GB, the next one and the final model"
    )
    if needed > free + old:
        raise UserError(
            f"Disk: {words}, and {free / GIGABYTE:.2f} GB are free in {folder}. Give another "
            "--output_dir, a smaller --save_total_limit, a longer --save_steps, or "
            "--save_only_model (which cannot be resumed)."
        )
    found.say(f"{words}; {free / GIGABYTE:.1f} GB free")
