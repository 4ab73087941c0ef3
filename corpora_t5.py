"""Text in: the documents of files, of corpora known by name and of data sets; and rows of tasks.

documents -> tokens (token_files_t5) -> windows (windows_t5, streams_t5).
A source is one entry of --train_file (all the files that a glob matches) or of --dataset_paths.
Its documents come in batches that say where they stand, so that reading goes on in the middle. A
new source of text is one entry of CORPORA or one file type of readers.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import installed_docs
from errors import UserError, did_you_mean
from hub import use_hub
from readers import expand_files, read_rows

logger = logging.getLogger(__name__)

DOCUMENTS_PER_BATCH = 1024
CHARACTERS_PER_BATCH = 1 << 20
# How long to wait before reading on after a failure; then the run ends with a sentence.
RETRY_SECONDS = (1, 5, 20, 60)

CORPORA = {"installed_docs": lambda: installed_docs.read_documents(part="corpus")}


# ---- sources ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A file, a corpus known by name, or a data set with its configuration."""

    path: str
    is_file: bool
    configuration: str | None = None

    def is_on_hub(self) -> bool:
        """True where nothing here has this name."""
        return not self.is_file and self.path not in CORPORA and not Path(self.path).exists()


@dataclass(frozen=True)
class Source:
    """What is read one part after the other; `label` is the entry as it was typed."""

    label: str
    parts: tuple[Part, ...]
    column: str = "text"
    split: str = "train"

    def num_file_bytes(self) -> int | None:
        """Size on disk where all parts are plain files, else None."""
        if not all(part.is_file and Path(part.path).is_file() for part in self.parts):
            return None
        return sum(Path(part.path).stat().st_size for part in self.parts)


def find_sources(
    *,
    files: str | None = None,
    dataset_paths: str | None = None,
    dataset_names: str | None = None,
    text_column_name: str = "text",
    split: str = "train",
    flag: str = "--train_file",
) -> list[Source]:
    """One source for each entry of the comma lists, files first; a file belongs to its first entry.

    `dataset_names` go with `dataset_paths` one by one.
    """
    sources: list[Source] = []
    taken: set[Path] = set()
    for entry in _entries(files):
        paths = [path for path in expand_files(entry, flag=flag) if path not in taken]
        taken.update(paths)
        parts = tuple(Part(str(path), is_file=True) for path in paths)
        if parts:
            sources.append(Source(entry, parts, column=text_column_name, split=split))
    if files and not sources:
        expand_files(files, flag=flag)  # says that it names no file
    names = [name.strip() for name in (dataset_names or "").split(",")]
    paths = _entries(dataset_paths)
    for path, name in zip(paths, names + [""] * len(paths), strict=False):
        if path not in CORPORA and not Path(path).exists():
            if near := did_you_mean(path, CORPORA):
                raise UserError(f"--dataset_paths {path} is not known.{near}")
        part = Part(path, is_file=False, configuration=name or None)
        sources.append(Source(path, (part,), column=text_column_name, split=split))
    return sources


def _entries(comma_list: str | None) -> list[str]:
    return [entry.strip() for entry in (comma_list or "").split(",") if entry.strip()]


def join_sources(sources: Sequence[Source]) -> Source:
    """One source that reads them all in turn."""
    return replace(
        sources[0],
        label=", ".join(source.label for source in sources),
        parts=tuple(part for source in sources for part in source.parts),
    )


def read_texts(
    *,
    files: str | None = None,
    dataset_paths: str | None = None,
    dataset_names: str | None = None,
    text_column_name: str = "text",
    split: str = "train",
    flag: str = "--train_file",
) -> Iterator[str]:
    """The documents of files, of corpora known by name, and of data sets, in this order."""
    for source in find_sources(
        files=files,
        dataset_paths=dataset_paths,
        dataset_names=dataset_names,
        text_column_name=text_column_name,
        split=split,
        flag=flag,
    ):
        for batch in read_documents(source):
            yield from batch.texts


# ---- documents ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Where a document stands: its number in the source, its part, its row there.

    `state` is what a streamed data set wants to know to go on without reading what was before.
    """

    document: int = 0
    part: int = 0
    row: int = 0
    state: dict | None = field(default=None, compare=False)


class DocumentBatch(NamedTuple):
    """Neighbouring documents, where the first one stands, and where reading goes on."""

    texts: list[str]
    position: Position
    after: Position


def read_documents(
    source: Source,
    *,
    start: Position | None = None,
    streaming: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[DocumentBatch]:
    """Yields the documents from `start` on in batches of about a megabyte.

    Where reading fails for want of a network or a disk, it goes on at the same document after a
    while, RETRY_SECONDS. `streaming` reads data sets of the Hub without fetching them first;
    `on_bytes` hears how much of a file was read.
    """
    position, failures = start or Position(), 0
    while True:
        try:
            for batch in _read_batches(source, position, streaming, on_bytes):
                yield batch
                position, failures = batch.after, 0
            return
        except _ReadingFailed as failed:
            if position.document == 0 and isinstance(failed.__cause__, UserError):
                raise failed.__cause__ from None  # nothing could be read: a mistake, no accident
            if failures == len(RETRY_SECONDS):
                raise UserError(_how_far(source, position, failed.reason)) from failed
            logger.warning(
                "%s: %s. Reading on at document %s in %s s.",
                source.label,
                failed.reason,
                f"{position.document + 1:,}",
                RETRY_SECONDS[failures],
            )
            time.sleep(RETRY_SECONDS[failures])
            failures += 1
        except UserError as error:
            if position.document == 0:
                raise
            raise UserError(f"{error} {_how_far(source, position)}") from error


class _ReadingFailed(Exception):
    """Something outside failed, and may work the next time."""

    def __init__(self, error: Exception):
        lines = str(error).splitlines()
        self.reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _how_far(source: Source, position: Position, reason: str | None = None) -> str:
    failed = f"{source.label} failed {len(RETRY_SECONDS) + 1} times in a row ({reason}). "
    return (
        f"{failed if reason else ''}The {position.document:,} documents of {source.label} before "
        "it were read. Once it can be read the same command goes on: training from its newest "
        "checkpoint, tokenising from the start."
    )


def _read_batches(
    source: Source,
    start: Position,
    streaming: bool,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[DocumentBatch]:
    texts: list[str] = []
    num_characters = 0
    position = first = start
    for number in range(start.part, len(source.parts)):
        part = source.parts[number]
        if number > start.part:
            position = Position(position.document, part=number, row=0)
        rows = _Rows(part, source, position, streaming=streaming, on_bytes=on_bytes)
        for text in rows:
            if not texts:
                first = position
            texts.append(text)
            num_characters += len(text)
            position = Position(position.document + 1, part=number, row=position.row + 1)
            if len(texts) == DOCUMENTS_PER_BATCH or num_characters >= CHARACTERS_PER_BATCH:
                position = replace(position, state=rows.state())
                yield DocumentBatch(texts, first, position)
                texts, num_characters = [], 0
    if texts:
        yield DocumentBatch(texts, first, position)


class _Rows:
    """The texts of one part from a row on. Failures that may pass are _ReadingFailed."""

    def __init__(
        self,
        part: Part,
        source: Source,
        position: Position,
        *,
        streaming: bool,
        on_bytes: Callable[[int], None] | None,
    ):
        self.part, self.source, self.position = part, source, position
        self.streaming, self.on_bytes = streaming, on_bytes
        self._streamed = None

    def state(self) -> dict | None:
        """What a streamed data set needs to go on after the last text."""
        return self._streamed and self._streamed.state_dict()

    def __iter__(self) -> Iterator[str]:
        # The datasets library raises a different class for each way to be unreachable.
        transient = OSError if self.part.is_file else Exception
        try:
            yield from self._texts()
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                raise _ReadingFailed(error) from error
            raise
        except transient as error:
            raise _ReadingFailed(error) from error

    def _texts(self) -> Iterator[str]:
        if self.part.path in CORPORA and not self.part.is_file:
            yield from islice(CORPORA[self.part.path](), self.position.row, None)
            return
        if self.part.is_file:
            rows: Iterable[dict] = read_rows(self.part.path, on_bytes=self.on_bytes)
            rows = islice(rows, self.position.row, None)
        else:
            rows = self._data_set_rows()
        column, path = self.source.column, self.part.path
        for number, row in enumerate(rows, start=self.position.row + 1):
            yield _text_of(row, column=column, path=path, number=number)

    def _data_set_rows(self) -> Iterator[dict]:
        data = _load_dataset(self.part, split=self.source.split, streaming=self.streaming)
        if not hasattr(data, "state_dict"):
            yield from data.select(range(self.position.row, len(data)))
            return
        if self.position.state is not None:
            data.load_state_dict(self.position.state)
        elif self.position.row:
            data = data.skip(self.position.row)
        self._streamed = data
        # Its plain iterator would give each worker process of a DataLoader a part of the rows.
        for batch in data.iter(batch_size=1):
            yield {name: values[0] for name, values in batch.items()}


def _text_of(row: dict, *, column: str, path: str, number: int) -> str:
    if column not in row:
        raise UserError(
            f"{path}, row {number}: no column {column!r}, found {sorted(row)}."
            f"{did_you_mean(column, row)} Name the column that holds the text with "
            "--text_column_name."
        )
    if not isinstance(row[column], str):
        raise UserError(
            f"{path}, row {number}: column {column!r} holds {type(row[column]).__name__}, "
            "expected text. Name another column with --text_column_name."
        )
    return row[column]


def _load_dataset(part: Part, *, split: str, streaming: bool):
    """A `save_to_disk` folder, a folder of data files, or a Hub data set."""
    import datasets

    path, name = part.path, part.configuration
    try:
        if (Path(path) / "state.json").exists() or (Path(path) / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(path)
            return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        if not Path(path).exists():
            use_hub()
        return datasets.load_dataset(path, name, split=split, streaming=streaming)
    except Exception as error:  # a different class for each way to be unreachable
        known = ", ".join(CORPORA)
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        raise UserError(
            f"The data set {path}{f' ({name})' if name else ''}, split {split}, is neither a "
            f"folder here that holds it, nor a corpus known by name ({known}), nor could it be "
            f"fetched from the Hugging Face Hub ({type(error).__name__}: {reason}). Without "
            "network use --train_file FILE."
        ) from error
