"""The embedded English corpus `installed_docs`: documentation every installation already has.

    python installed_docs.py --output_dir demo/data                # the labelled task, as files
    python installed_docs.py --output_dir demo/data --num_swaps 2  # the same task, harder

The text is Python's language reference (`pydoc_data.topics`) and the docstrings of the standard
library and of a few installed packages: technical English that needs no download. Docstrings are
parsed, never imported. One Python and one lock give one corpus, see `corpus_checksum`.

A document is one docstring or one reference topic. 15 % of them, chosen by a hash of their text,
are the part "task": a labelled task is made of them and pre-training never sees them.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import multiprocessing
import os
import platform
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from errors import UserError, run_program
from whole_files import write_text

STDLIB = "stdlib"
PACKAGES = (STDLIB, "datasets", "numpy", "scipy", "sklearn", "torch", "transformers")
# Tests, and other people's code inside a package: neither is that package's documentation.
SKIPPED_FOLDERS = re.compile(
    r"tests?|testing|idle_test|(site|dist)-packages|lib-dynload|__pycache__"
    r"|.*vendor.*|_?externals?|array_api_(compat|extra)|cobyqa"
)
MIN_DOCUMENT_CHARACTERS = 80
MIN_REPEATED_CHARACTERS = 60  # shorter blocks are headings such as "Returns", which may repeat
TASK_PERCENT = 15
PARTS = ("corpus", "task", "all")
FILES_PER_TURN = 32
MAX_PROCESSES = 16


def read_documents(
    *,
    part: str = "corpus",
    packages: Sequence[str] = PACKAGES,
    num_processes: int | None = None,
) -> list[str]:
    """Returns the documents of one part, the same list in the same order whoever reads it.

    `num_processes=None` takes every core this process may use, up to 16.
    """
    if part not in PARTS:
        raise UserError(f"part {part!r} of installed_docs does not exist: take one of {PARTS}.")
    documents = reference_topics() if STDLIB in packages else []
    for found in _read_files(source_files(packages), num_processes=num_processes):
        documents.extend(found)
    documents = without_repeats(documents)
    return [text for text in documents if part in ("all", part_of(text))]


def part_of(document: str) -> str:
    """Returns "task" for 15 % of all texts and "corpus" for the others."""
    digest = hashlib.sha256(document.encode()).digest()
    return "task" if int.from_bytes(digest[:8], "big") % 100 < TASK_PERCENT else "corpus"


def corpus_checksum(documents: Iterable[str] | None = None) -> str:
    """Returns the SHA-256 of all documents in order; reads them if they are not given."""
    digest = hashlib.sha256()
    for text in read_documents(part="all") if documents is None else documents:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def corpus_version() -> str:
    """Returns what decides the corpus, without reading it: Python, packages and these rules."""
    names = {"sklearn": "scikit-learn"}
    packages = [names.get(package, package) for package in PACKAGES if package != STDLIB]
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    rules = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return ", ".join([f"python {platform.python_version()}", *versions, f"rules {rules}"])


# ---- Files to docstrings ------------------------------------------------------------------------


def reference_topics() -> list[str]:
    """Returns the chapters of Python's language reference, ordered by name."""
    from pydoc_data.topics import topics

    return [text.strip() for _, text in sorted(topics.items())]


def package_folder(package: str) -> Path:
    """Returns the folder of a package without importing it; "stdlib" is the standard library."""
    if package == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"installed_docs reads the documentation of {package!r}, which is not installed: "
            "run `make install`."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def source_files(packages: Sequence[str]) -> list[Path]:
    """Returns the Python files of the packages, each package's ordered by relative path."""
    return [path for package in packages for path in _files_below(package_folder(package))]


def _files_below(root: Path) -> list[Path]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not SKIPPED_FOLDERS.fullmatch(name)]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def docstrings(source: bytes) -> list[str]:
    """Returns the cleaned docstrings of a module, outermost first, or none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = (ast.get_docstring(node, clean=False) for node in _definitions(tree))
    return [inspect.cleandoc(_encodable(text)) for text in found if text]


def _encodable(text: str) -> str:
    """Returns the text with "?" for lone surrogates, which documentation of Unicode spells out."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _definitions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields whatever can carry a docstring, in the order of the source.

    Visits statements only: ast.walk would visit every expression too, at four times the price.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        for field in ("finalbody", "orelse", "handlers", "cases", "body"):
            waiting.extend(reversed(getattr(node, field, ())))


def _read_file(path: Path) -> list[str]:
    return docstrings(path.read_bytes())


def _read_files(paths: list[Path], *, num_processes: int | None) -> Iterator[list[str]]:
    """Yields the docstrings of each file, in the order of the files."""
    num_processes = num_processes or min(_num_usable_cores(), MAX_PROCESSES)
    show = {"total": len(paths), "desc": "installed_docs", "unit": " files", "disable": None}
    if num_processes == 1 or len(paths) <= FILES_PER_TURN:
        yield from tqdm(map(_read_file, paths), **show)
        return
    # A forked child does not import the calling program, and torch with it, a second time.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    # Syntax trees hold no cycles: without the collector's passes over them parsing takes 4/5.
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=gc.disable) as pool:
        yield from tqdm(pool.map(_read_file, paths, chunksize=FILES_PER_TURN), **show)


def _num_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- Docstrings to documents --------------------------------------------------------------------


def without_repeats(documents: Iterable[str]) -> list[str]:
    """Returns the documents without any block that an earlier one had, and without short ones.

    Blocks, not documents, because transformers describes `pad_token` in forty classes: equal
    documents are 12 % of all characters, other equal blocks 17 % of the rest.
    """
    seen: set[bytes] = set()
    kept = []
    for document in documents:
        if len(document) < MIN_DOCUMENT_CHARACTERS:
            continue  # before its blocks count as seen
        text = "\n".join(block for block in blocks(document) if _is_new(block, seen=seen)).strip()
        if len(text) >= MIN_DOCUMENT_CHARACTERS:
            kept.append(text)
    return kept


def _is_new(block: str, *, seen: set[bytes]) -> bool:
    text = " ".join(block.split())
    if len(text) < MIN_REPEATED_CHARACTERS:
        return True
    key = hashlib.sha256(text.encode()).digest()[:16]
    if key in seen:
        return False
    seen.add(key)
    return True


def blocks(document: str) -> Iterator[str]:
    """Yields paragraphs and, where lines are indented, each head line with what is below it.

        Splits a string.                Splits a string.
                                        ---
        Args:                           Args:
            text: What to split,   ->   ---
                as it is.               text: What to split,
            sep: Where.                     as it is.
                                        ---
                                        sep: Where.

    Joining the blocks with newlines gives the document back: a blank line stays with the block
    after it.
    """
    lines = document.splitlines()
    depths = [len(line) - len(line.lstrip()) if line.strip() else None for line in lines]
    block: list[str] = []
    for i, line in enumerate(lines):
        before = depths[i - 1] if i else None
        after = depths[i + 1] if i + 1 < len(lines) else None
        depth = depths[i]
        if depth is None:
            starts = before is not None
        else:
            starts = before is not None and ((after or 0) > depth or before > depth)
        if starts and block:
            yield "\n".join(block)
            block = []
        block.append(line)
    if block:
        yield "\n".join(block)


# ---- Documents to the labelled task -------------------------------------------------------------

LABELS = ("shuffled", "original")
MIN_WORDS, MAX_WORDS = 6, 24
MIN_FUNCTION_WORDS = 2
PLAIN_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
TECHNICAL_WORD = re.compile(r"`{0,2}(?=.*[A-Za-z0-9])[A-Za-z0-9_.'-]+`{0,2}")
SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(])")
FUNCTION_WORDS = frozenset(
    "a all an and are as at be by can do does for from has have if in into is it its may must no "
    "not of on only or should than that the then this to was we when which will with would you "
    "your".split()
)
NUM_HEAD_WORDS = 6  # as many as the shortest sentence has


def make_word_order_task(
    *,
    documents: Iterable[str],
    seed: int,
    num_train: int,
    num_validation: int,
    num_test: int,
    num_swaps: int | None = None,
    unseen_in: Iterable[str] = (),
) -> dict[str, list[dict]]:
    """Returns rows that ask of a sentence: is it as it was written, or are its words shuffled?

        {"idx": 0, "sentence": "return a copy of the array with its axes reversed", "label": 1}
        {"idx": 1, "sentence": "axes copy the return with array reversed its a of", "label": 0}

    Only the order can tell: punctuation around words is gone and the first word is lower-case
    (unless it is a name) under both labels. Half the rows of each split are "original". No
    sentence, in whatever order, comes twice, and none occurs in the `unseen_in` documents.
    `num_swaps=k` makes it harder: k random swaps of neighbours instead of a full shuffle.
    """
    if num_swaps is not None and num_swaps < 1:
        raise UserError(
            f"--num_swaps {num_swaps} leaves sentences as they are: type 1 or more, or leave it "
            "out to shuffle all words."
        )
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    sentences = _without_seen(_distinct_sentences(documents), unseen_in)
    if sum(sizes.values()) > len(sentences):
        raise UserError(
            f"{sum(sizes.values())} rows were asked for and the documents hold {len(sentences)} "
            "plain sentences: lower --num_train, --num_validation or --num_test."
        )
    random.Random(seed).shuffle(sentences)
    task = {}
    for split, size in sizes.items():
        chosen, sentences = sentences[:size], sentences[size:]
        rng = random.Random(f"{seed} {split}")
        task[split] = _labelled_rows(chosen, rng=rng, num_swaps=num_swaps)
    return task


def _labelled_rows(
    sentences: list[list[str]], *, rng: random.Random, num_swaps: int | None
) -> list[dict]:
    """Returns one row for each sentence; the labels do not depend on `num_swaps`."""
    labels = [i % len(LABELS) for i in range(len(sentences))]
    rng.shuffle(labels)
    rows = []
    for idx, (words, label) in enumerate(zip(sentences, labels, strict=True)):
        if label == LABELS.index("shuffled"):
            words = shuffle_words(words, rng=rng, num_swaps=num_swaps)
        rows.append({"idx": idx, "sentence": " ".join(words), "label": label})
    return rows


def shuffle_words(
    words: Sequence[str], *, rng: random.Random, num_swaps: int | None = None
) -> list[str]:
    """Returns the words in another order: any, or the one after `num_swaps` neighbour swaps."""
    assert len(set(words)) > 1, words
    shuffled = list(words)
    while shuffled == list(words):
        if num_swaps is None:
            rng.shuffle(shuffled)
            continue
        for _ in range(num_swaps):
            i = rng.randrange(len(words) - 1)
            shuffled[i], shuffled[i + 1] = shuffled[i + 1], shuffled[i]
    return shuffled


def plain_sentences(document: str) -> Iterator[list[str]]:
    """Yields the words of each English sentence of 6 to 24 words, without its punctuation.

    Code, tables, directives and lists of parameters fail one of: starts with a capital, ends with
    one full stop, two function words, at most one word in six (or one) that is not a plain word.
    """
    for block in blocks(document):
        lines = block.strip("\n").splitlines()
        if len(lines) > 1 and lines[1].startswith(" " * (1 + _depth(lines[0]))):
            lines = lines[1:]  # the head names a parameter, what is below it may be prose
        for sentence in SENTENCE_BREAK.split(" ".join(" ".join(lines).split())):
            words = _plain_words(sentence)
            if words:
                yield words


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _plain_words(sentence: str) -> list[str]:
    """Returns the words, first one in lower case, or [] if this is not an English sentence."""
    if not re.fullmatch(r"[A-Z].*\.", sentence):
        return []
    words = [word.strip(',;:()"') for word in sentence[:-1].split()]
    num_technical = sum(not PLAIN_WORD.fullmatch(word) for word in words)
    if (
        not MIN_WORDS <= len(words) <= MAX_WORDS
        or num_technical > max(1, len(words) // 6)
        or not all(TECHNICAL_WORD.fullmatch(word) and word[-1] != "." for word in words)
        or sum(word.lower() in FUNCTION_WORDS for word in words) < MIN_FUNCTION_WORDS
    ):
        return []
    if words[0] == "A" or re.fullmatch(r"[A-Z][a-z'-]+", words[0]):
        words[0] = words[0].lower()
    return words


def _distinct_sentences(documents: Iterable[str]) -> list[list[str]]:
    """Returns one sentence for each bag of words, so that no split holds another one's shuffle."""
    by_bag: dict[tuple[str, ...], list[str]] = {}
    for document in documents:
        for words in plain_sentences(document):
            by_bag.setdefault(tuple(sorted(word.lower() for word in words)), words)
    return list(by_bag.values())


def _without_seen(sentences: list[list[str]], documents: Iterable[str]) -> list[list[str]]:
    """Returns the sentences whose words no document has in a row, in whatever case or layout."""
    by_head: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for words in sentences:
        folded = tuple(word.lower() for word in words)
        by_head.setdefault(folded[:NUM_HEAD_WORDS], []).append(folded)
    seen = set()
    for document in documents:
        words = [word.strip(',;:()."').lower() for word in document.split()]
        for i in range(len(words) - NUM_HEAD_WORDS + 1):
            for folded in by_head.get(tuple(words[i : i + NUM_HEAD_WORDS]), ()):
                if tuple(words[i : i + len(folded)]) == folded:
                    seen.add(folded)
    return [words for words in sentences if tuple(word.lower() for word in words) not in seen]


# ---- The task as files --------------------------------------------------------------------------


def write_task(task: dict[str, list[dict]], *, output_dir: Path) -> list[Path]:
    """Returns the files `word_order.{split}.jsonl`, each of which appears only when complete."""
    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for split, rows in task.items():
        path = output_dir / f"word_order.{split}.jsonl"
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        written.append(path)
    return written


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the flags of this program."""
    parser = argparse.ArgumentParser(
        description="Writes the word-order task made of installed documentation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, default="demo/data", help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="which sentences, and how shuffled")
    parser.add_argument("--num_train", type=int, default=4000, help="rows")
    parser.add_argument("--num_validation", type=int, default=500, help="rows")
    parser.add_argument("--num_test", type=int, default=1000, help="rows")
    parser.add_argument(
        "--num_swaps",
        type=int,
        help="swaps of neighbouring words in a shuffled sentence, fewer is harder; "
        "None shuffles all words",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    flags = parse_arguments(arguments)
    documents = read_documents(part="all")
    task = make_word_order_task(
        documents=[text for text in documents if part_of(text) == "task"],
        unseen_in=[text for text in documents if part_of(text) == "corpus"],
        seed=flags.seed,
        num_train=flags.num_train,
        num_validation=flags.num_validation,
        num_test=flags.num_test,
        num_swaps=flags.num_swaps,
    )
    write_task(task, output_dir=flags.output_dir)
    num_bytes = sum(len(text.encode()) for text in documents)
    rows = ", ".join(f"{len(rows)} {split}" for split, rows in task.items())
    print(
        f"installed_docs: {len(documents)} documents, {num_bytes / 1e6:.1f} MB, "
        f"sha256 {corpus_checksum(documents)}; word_order rows: {rows}"
    )


if __name__ == "__main__":
    run_program(main)
