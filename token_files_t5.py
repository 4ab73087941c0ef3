"""Documents in, tokens out: one memory-mapped file per corpus, tokenised once and kept.

    tokenized_datasets/3f0c.../tokens.bin      all token ids end to end, uint16 or uint32
                               documents.bin   where each document ends, int64
                               facts.json      what was found, among it what the tokenizer loses

The folder is named by the contents of the text and the tokenizer. One process writes it, beside its
place, and moves it there when it is complete; all others wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

import installed_docs
from corpora_t5 import CORPORA, Source, read_documents
from errors import UserError
from whole_files import write_text
from word_tokens import WordEncoder, can_remember_words

logger = logging.getLogger(__name__)

CACHE_FORMAT = 3
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_NOTES = 60
# A process forked beside the threads of torch and tokenizers may inherit a lock forever.
START_METHOD = "spawn"
STALE_SECONDS = 24 * 3600
# A file whose time stamp is younger may change again without getting another one.
SETTLED_SECONDS = 2
# Real text has a few rare characters; above this share something is wrong with the pair.
MOST_UNKNOWN_SHARE = 0.01
NUM_UNKNOWN_SHOWN = 12
NUM_DOCUMENTS_SEARCHED = 256

# What T5's own vocabulary reads as a space, as nothing, or as <unk>.
MAY_BE_LOST = {
    "newlines": "\n",
    "tabs": "\t",
    "repeated spaces": "  ",
    "NUL characters": "\0",
}


# ---- encoding -----------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Tokens of a batch of documents end to end, tokens per document, and what was counted."""

    ids: np.ndarray
    lengths: np.ndarray
    counts: Counter
    unknown_characters: Counter


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that stand for no text; `all_special_ids` does not know sentinels that were added."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({i for i, token in added if token.special} | set(tokenizer.all_special_ids))


class Encoder:
    """Documents to token ids, without EOS or separators; may travel to other processes.

    A literal `</s>` or `<extra_id_0>` in a document is text, not a command: where the vocabulary
    would read it as a special token it becomes <unk>, as it does in T5's own pipeline.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self._special = np.zeros(len(tokenizer), dtype=bool)
        self._special[special_ids(tokenizer)] = True
        self._special[tokenizer.unk_token_id] = False
        self._lost = lost_by(tokenizer)
        self._num_searched = 0
        self._words = (
            WordEncoder(self._rows, dtype=self.dtype) if can_remember_words(tokenizer) else None
        )

    def __call__(self, documents: Sequence[str]) -> Encoded:
        ids, lengths = self._ids(documents)
        special = self._special[ids]
        ids[special] = self.tokenizer.unk_token_id
        is_unknown = ids == self.tokenizer.unk_token_id
        counts = Counter(
            num_documents=len(documents),
            num_empty_documents=int(np.count_nonzero(lengths == 0)),
            num_one_token_documents=int(np.count_nonzero(lengths == 1)),
            num_tokens=len(ids),
            num_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in documents),
            num_unknown_tokens=int(np.count_nonzero(is_unknown)),
            num_special_texts=int(np.count_nonzero(special)),
        )
        for name, characters in self._lost.items():
            counts[name] = sum(text.count(characters) for text in documents)
        characters = self._unknown_characters(documents, lengths, is_unknown)
        return Encoded(ids, lengths, counts, characters)

    def _ids(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids end to end, [num_tokens], and the number of each document, [num_documents]."""
        if self._words is not None:
            parts = self._words(documents)
            lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
            ids = np.frombuffer(bytearray().join(parts), dtype=self.dtype)
            return ids, lengths // self.dtype.itemsize
        rows = self._rows(documents)
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.fromiter(
            chain.from_iterable(rows), dtype=self.dtype, count=int(lengths.sum(dtype=np.int64))
        )
        return ids, lengths

    def _rows(self, documents: Sequence[str]) -> list[list[int]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:  # ByT5 and others that are written in Python
            encoded = self.tokenizer(list(documents), add_special_tokens=False, verbose=False)
            return encoded["input_ids"]
        encodings = backend.encode_batch_fast(list(documents), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _unknown_characters(
        self, documents: Sequence[str], lengths: np.ndarray, is_unknown: np.ndarray
    ) -> Counter:
        """Characters without a token and their number, in the first documents that have some."""
        found: Counter = Counter()
        if self._num_searched >= NUM_DOCUMENTS_SEARCHED or not is_unknown.any():
            return found
        owners = np.repeat(np.arange(len(documents)), lengths)[is_unknown]
        for number in np.unique(owners)[: NUM_DOCUMENTS_SEARCHED - self._num_searched].tolist():
            self._num_searched += 1
            found.update(documents[number])
        characters = sorted(found)
        for character, row in zip(characters, self._rows(characters), strict=True):
            if self.tokenizer.unk_token_id not in row:
                del found[character]
        return found


def encode_documents(documents: Sequence[str], *, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All token ids of the documents end to end, [num_tokens]."""
    return Encoder(tokenizer)(documents).ids.astype(np.int64)


def lost_by(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The entries of MAY_BE_LOST that leave no trace, or the trace of a space, in the tokens."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    traceless = [ids("a b"), ids("ab")]
    return {name: text for name, text in MAY_BE_LOST.items() if ids(f"a{text}b") in traceless}


def encode_batches(
    batches: Iterable[Sequence[str]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    num_workers: int | None = None,
) -> Iterator[Encoded]:
    """Each batch encoded, in order: here, or by so many processes."""
    if not num_workers:
        yield from map(Encoder(tokenizer), batches)
        return
    pending: deque = deque()
    with ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context(START_METHOD),
        initializer=_start_worker,
        initargs=(tokenizer,),
    ) as pool:
        try:
            for batch in batches:
                pending.append(pool.submit(_encode_in_worker, batch))
                if len(pending) > 2 * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"One of {num_workers} tokenising processes ended, probably for want of memory. "
                "Give a smaller --preprocessing_num_workers."
            ) from error


_encoder_of_worker: Encoder | None = None


def _start_worker(tokenizer: PreTrainedTokenizerBase) -> None:
    global _encoder_of_worker
    # Killed, the parent could not tell its workers; they would wait for work forever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder_of_worker = Encoder(tokenizer)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_in_worker(documents: Sequence[str]) -> Encoded:
    return _encoder_of_worker(documents)


# ---- token files --------------------------------------------------------------------------------


COUNTS = (
    *("num_documents", "num_empty_documents", "num_one_token_documents"),
    *("num_tokens", "num_bytes", "num_unknown_tokens", "num_special_texts"),
)


@dataclass(frozen=True)
class TokenFacts:
    """What tokenising a corpus found; kept beside the tokens."""

    num_documents: int
    num_empty_documents: int
    num_one_token_documents: int
    num_tokens: int
    num_bytes: int
    num_unknown_tokens: int
    num_special_texts: int
    dtype: str
    lost: dict[str, int] = field(default_factory=dict)
    unknown_characters: str = ""

    def summary(self) -> str:
        """12 documents, 3.4 MB, 800,000 tokens (4.25 bytes each, 0.10% unknown)"""
        num_tokens = max(self.num_tokens, 1)
        return (
            f"{self.num_documents:,} documents, {self.num_bytes / 1e6:.1f} MB, "
            f"{self.num_tokens:,} tokens ({self.num_bytes / num_tokens:.2f} bytes each, "
            f"{self.num_unknown_tokens / num_tokens:.2%} unknown)"
        )

    def warnings(self) -> list[str]:
        """What of the text does not reach the model, each with its count and a remedy."""
        found = []
        if self.num_unknown_tokens > MOST_UNKNOWN_SHARE * self.num_tokens:
            shown = " ".join(map(_visible, self.unknown_characters))
            found.append(
                f"{self.num_unknown_tokens:,} tokens are <unk>"
                f"{f'; characters without a token: {shown}' if shown else ''}. A tokenizer made "
                "from this text by train_tokenizer_t5.py knows them."
            )
        if self.lost:
            counted = ", ".join(f"{count:,} {name}" for name, count in self.lost.items())
            found.append(
                f"the tokenizer reads {counted} as a single space or as nothing. Where they matter "
                "(code, tables, verse), take a tokenizer that has tokens for them."
            )
        if self.num_special_texts:
            found.append(
                f"{self.num_special_texts:,} literal </s>, <extra_id_0> and the like became <unk>."
            )
        if self.num_empty_documents:
            found.append(f"{self.num_empty_documents:,} documents are empty or of spaces: skipped.")
        return found

    @staticmethod
    def total(facts: Sequence[TokenFacts]) -> TokenFacts:
        """The sums of several corpora."""
        lost = Counter()
        for part in facts:
            lost.update(part.lost)
        return TokenFacts(
            **{name: sum(getattr(part, name) for part in facts) for name in COUNTS},
            dtype=facts[0].dtype,
            lost=dict(lost),
            unknown_characters="".join(dict.fromkeys("".join(p.unknown_characters for p in facts)))[
                :NUM_UNKNOWN_SHOWN
            ],
        )


@dataclass(frozen=True)
class TokenFile:
    """A tokenised corpus on disk, opened anew in every process."""

    folder: Path
    facts: TokenFacts

    def open(self) -> np.ndarray:
        """All tokens, [num_tokens], memory-mapped."""
        return map_file(self.folder / "tokens.bin", dtype=self.facts.dtype)

    def document_ends(self) -> np.ndarray:
        """The number of tokens up to the end of each document, [num_documents], memory-mapped."""
        return map_file(self.folder / "documents.bin", dtype="int64")


def _visible(character: str) -> str:
    return character if character.isprintable() else f"U+{ord(character):04X}"


def map_file(path: Path, *, dtype: str) -> np.ndarray:
    """The contents of a file as one array, in memory only where it is looked at."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def tokenise(
    batches: Iterable[Sequence[str]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: Path,
    key: str,
    num_workers: int | None = None,
    enough_tokens: int | None = None,
) -> TokenFile:
    """The tokens of all documents, from the cache where `key` is complete, else written there.

    Of all processes that ask at the same time, on any number of ranks, one writes and the others
    wait; no collective is involved, which would time out after half an hour. What a killed process
    left is removed. `enough_tokens` ends the work after the batch that reaches them.
    """
    folder = cache_dir / key
    facts_file = folder / "facts.json"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _alone(cache_dir / f"{key}.lock", unless=facts_file.exists) as is_alone:
            if is_alone:
                _remove_unfinished(cache_dir, key=key)
                _write_folder(
                    encode_batches(batches, tokenizer=tokenizer, num_workers=num_workers),
                    folder,
                    dtype=Encoder(tokenizer).dtype,
                    enough_tokens=enough_tokens,
                )
    except OSError as error:
        raise UserError(
            f"--tokenized_dataset_dir {cache_dir} cannot be written ({error.strerror or error}). "
            "Give a folder that can."
        ) from error
    return TokenFile(folder, TokenFacts(**json.loads(facts_file.read_text())))


def _write_folder(
    encoded: Iterable[Encoded],
    folder: Path,
    *,
    dtype: np.dtype,
    enough_tokens: int | None,
) -> None:
    """Writes a token file beside its place and moves it there."""
    unfinished = folder.with_name(f".{folder.name}.{_host()}.{os.getpid()}")
    unfinished.mkdir(exist_ok=True)
    try:
        facts = _write_tokens(encoded, unfinished, dtype=dtype, enough_tokens=enough_tokens)
        (unfinished / "facts.json").write_text(json.dumps(asdict(facts), indent=2))
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not (folder / "facts.json").exists():  # else another node wrote the same tokens
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_tokens(
    encoded: Iterable[Encoded],
    folder: Path,
    *,
    dtype: np.dtype,
    enough_tokens: int | None,
) -> TokenFacts:
    counts: Counter = Counter(dict.fromkeys(COUNTS, 0))
    unknown: Counter = Counter()
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "documents.bin").open("wb") as ends,
    ):
        for batch in encoded:
            tokens.write(batch.ids.astype(dtype, copy=False).tobytes())
            ends.write((np.cumsum(batch.lengths) + counts["num_tokens"]).tobytes())
            counts.update(batch.counts)
            unknown.update(batch.unknown_characters)
            if enough_tokens is not None and counts["num_tokens"] >= enough_tokens:
                break
    return TokenFacts(
        **{name: counts[name] for name in COUNTS},
        dtype=dtype.name,
        lost={name: counts[name] for name in MAY_BE_LOST if counts[name]},
        unknown_characters="".join(c for c, _ in unknown.most_common(NUM_UNKNOWN_SHOWN)),
    )


def tokens_of_source(
    source: Source,
    *,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: Path,
    num_workers: int | None = None,
) -> TokenFile:
    """The token file of a source, with a bar of megabytes, rate and time left while it is made."""
    progress = Progress(f"tokenise {source.label}", total_bytes=source.num_file_bytes())

    def batches() -> Iterator[list[str]]:
        for batch in read_documents(
            source, on_bytes=progress.add if progress.total_bytes else None
        ):
            yield batch.texts
            if not progress.total_bytes:
                progress.add(sum(map(len, batch.texts)))

    with progress.bar:
        return tokenise(
            batches(),
            tokenizer=tokenizer,
            cache_dir=cache_dir,
            key=contents_key(source, tokenizer=tokenizer, cache_dir=cache_dir),
            num_workers=num_workers,
        )


class Progress:
    """A bar on a terminal, a line a minute elsewhere: megabytes, rate, and time left if known."""

    def __init__(self, label: str, *, total_bytes: int | None):
        self.label, self.total_bytes = label, total_bytes
        self.num_bytes = 0
        self.began = self.noted = time.monotonic()
        self.bar = tqdm(
            desc=label,
            total=total_bytes,
            unit="B",
            unit_scale=True,
            disable=None,
            delay=1,
            dynamic_ncols=True,
        )

    def add(self, num_bytes: int) -> None:
        """Takes note of bytes that were read."""
        self.num_bytes += num_bytes
        self.bar.update(num_bytes)
        now = time.monotonic()
        if self.bar.disable and now - self.noted >= SECONDS_BETWEEN_NOTES:
            self.noted = now
            logger.warning(self.line(now - self.began))

    def line(self, seconds: float) -> str:
        """tokenise a.txt: 120 of 480 MB, 4.0 MB/s, 1.5 min left"""
        rate = self.num_bytes / seconds
        read = f"{self.num_bytes / 1e6:,.0f}"
        if not self.total_bytes:
            return f"{self.label}: {read} MB, {rate / 1e6:.1f} MB/s"
        left = max(self.total_bytes - self.num_bytes, 0) / rate / 60
        return (
            f"{self.label}: {read} of {self.total_bytes / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, "
            f"{left:.1f} min left"
        )


# ---- names of token files -----------------------------------------------------------------------


def contents_key(source: Source, *, tokenizer: PreTrainedTokenizerBase, cache_dir: Path) -> str:
    """A name that changes with the contents of files, names of data sets, column and tokenizer."""
    known = _KnownContents(cache_dir / "contents.json")
    parts = [known.digest(path) for path in _local_files(source)]
    known.save()
    return _key(source, tokenizer, parts)


def stream_key(source: Source, *, tokenizer: PreTrainedTokenizerBase, settings: Sequence) -> str:
    """A name that changes with paths, sizes and times of files: a stream is not read beforehand."""
    stats = [(str(path), path.stat()) for path in _local_files(source)]
    parts = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return _key(source, tokenizer, [parts, list(settings)])


def _key(source: Source, tokenizer: PreTrainedTokenizerBase, contents: list) -> str:
    names = [
        (part.path, part.configuration, installed_docs.corpus_version())
        if part.path in CORPORA
        else ("" if Path(part.path).exists() else part.path, part.configuration)
        for part in source.parts
    ]
    identity = [CACHE_FORMAT, names, source.column, source.split, contents]
    digest = hashlib.sha256(json.dumps(identity).encode())
    digest.update(_identity_of(tokenizer).encode())
    return digest.hexdigest()[:24]


def _identity_of(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return backend.to_str()
    vocabulary = sorted(tokenizer.get_vocab().items())
    return json.dumps([type(tokenizer).__name__, vocabulary, tokenizer.all_special_ids])


def _local_files(source: Source) -> list[Path]:
    files: list[Path] = []
    for part in source.parts:
        path = Path(part.path)
        if part.is_file or part.path not in CORPORA:
            files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
            files += [path] if path.is_file() else []
    return files


class _KnownContents:
    """Digests of files, remembered by path, size and time, so that ranks need not read them all."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, list] = {}
        self.is_changed = False
        with contextlib.suppress(OSError, ValueError):
            self.known = json.loads(path.read_text())

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's kind and contents."""
        stat = path.stat()
        signature = [stat.st_size, stat.st_mtime_ns]
        name = str(path.resolve())
        if self.known.get(name, [])[:2] == signature:
            return self.known[name][2]
        digest = hashlib.sha256("".join(path.suffixes).encode())
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        if time.time() - stat.st_mtime > SETTLED_SECONDS:
            self.known[name] = [*signature, digest.hexdigest()]
            self.is_changed = True
        return digest.hexdigest()

    def save(self) -> None:
        """Keeps them where that is possible; they only save time."""
        if self.is_changed:
            with contextlib.suppress(OSError):
                write_text(self.path, json.dumps(self.known))


# ---- one writes, the others wait ----------------------------------------------------------------


@contextlib.contextmanager
def _alone(path: Path, *, unless) -> Iterator[bool]:
    """True once no other process holds the lock, False as soon as `unless()` holds.

    The kernel takes the lock back from a process that dies, so it never outlives its owner.
    """
    began = noted = time.monotonic()
    while not unless():
        descriptor = _try_lock(path)
        if descriptor is not None:
            try:
                yield not unless()
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                os.close(descriptor)
            return
        now = time.monotonic()
        if now - noted >= SECONDS_BETWEEN_NOTES or noted == began:
            logger.warning("Waiting for the process that tokenises %s.", path.with_suffix(""))
            noted = now
        time.sleep(SECONDS_BETWEEN_LOOKS)
    yield False


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None where another process does."""
    try:
        import fcntl
    except ImportError:  # Windows: every process writes its own, the first one's stays
        return os.open(os.devnull, os.O_RDWR)

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            os.close(descriptor)
            # A file system without locks: one writer on each node, the first one's stays.
            path.unlink(missing_ok=True)
            return _try_lock(Path(tempfile.gettempdir()) / f"t5.{os.getuid()}.{path.name}")
    os.close(descriptor)
    return None


def _remove_unfinished(cache_dir: Path, *, key: str) -> None:
    """Removes what killed processes left: of this key, whose lock is held, and of any idle one."""
    for folder in cache_dir.glob(".*.*.*"):
        owner_key, _, rest = folder.name[1:].partition(".")
        host = rest.rpartition(".")[0]
        try:
            is_old = time.time() - folder.stat().st_mtime > STALE_SECONDS
        except OSError:
            continue
        if host != _host() and not is_old:
            continue
        if owner_key == key:
            shutil.rmtree(folder, ignore_errors=True)
        elif (descriptor := _try_lock(cache_dir / f"{owner_key}.lock")) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(cache_dir / f"{owner_key}.lock")
            os.close(descriptor)


def _host() -> str:
    return socket.gethostname().replace(".", "-").replace("/", "-")
