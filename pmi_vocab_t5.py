"""Finds the phrases whose words predict each other, for `--masking pmi`.

    python pmi_vocab_t5.py --dataset_paths installed_docs --vocab_size 4000 \\
        --output pmi_vocab.txt                            # a minute on a laptop
    python pmi_vocab_t5.py --train_file 'corpus/*.jsonl.gz' \\
        --output pmi_vocab.txt
    python pre_train_t5.py --train_file 'corpus/*.jsonl.gz' --masking pmi \\
        --pmi_vocab_path pmi_vocab.txt

A phrase of n words has the score min over all ways to cut it of
log(p(phrase)^2 / product of p(part)): how much more often it occurs than its
parts would meet by chance, in the way of cutting that explains it best. p is
the count over the number of phrases of that length. The vocabulary is the best
50 % phrases of 2 words, 25 % of 3, 12.5 % of 4 and of 5 (Levine et al. 2021,
PMI-Masking; AI21Labs/pmi-masking, README), one per line, lower-case, by length
and then by score.
"""

from __future__ import annotations

from arguments_t5 import PMI_VOCAB
from flags import answer_early, parse_flags

if __name__ == "__main__":  # --help and misspelt flags do not wait for torch
    answer_early(PMI_VOCAB, about=__doc__)

import functools
import itertools
import os
import re
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from corpora_t5 import read_texts
from errors import UserError, run_program
from masking_units import APOSTROPHES, LONGEST_PHRASE, SHORTEST_PHRASE, is_word_character
from whole_files import write_text

SHARES = {2: 0.5, 3: 0.25, 4: 0.125, 5: 0.125}
# Bounds of memory: words take some 150 bytes each, counted n-grams 16, thrice while they merge.
MOST_WORDS = 2_000_000
MOST_NGRAMS = 20_000_000
CHUNK_WORDS = 1_000_000
DOCUMENTS_PER_WRITE = 1000
BREAK = 0  # where no phrase goes on: punctuation, and the end of a document


def main(argv: Sequence[str] | None = None) -> None:
    """Writes one vocabulary and prints what is in it; under a launcher, rank 0 does."""
    (args,) = parse_flags(PMI_VOCAB, argv, about=__doc__)
    if os.environ.get("RANK", "0") != "0":
        return
    output = Path(args.output)
    texts = read_texts(
        files=args.train_file,
        dataset_paths=args.dataset_paths,
        dataset_names=args.dataset_names,
        text_column_name=args.text_column_name,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pmi_vocab.", dir=output.parent) as folder:
            texts = tqdm(texts, desc="read", unit=" documents", disable=None)
            counts = count_ngrams(texts, folder=Path(folder), min_count=args.min_count)
        phrases = best_phrases(counts, vocab_size=args.vocab_size)
        write_text(output, "".join(f"{p}\n" for some in phrases.values() for p in some))
    except OSError as error:
        raise UserError(
            f"--output {output} cannot be written ({error.strerror}). Give a file that can."
        ) from error
    print(describe(counts, phrases=phrases, vocab_size=args.vocab_size))
    print(f"Wrote {output}: --masking pmi --pmi_vocab_path {output}")


# ---- text to word numbers -----------------------------------------------------------------------


@functools.cache
def _word_pattern() -> re.Pattern:
    """Finds words, and with an empty group the punctuation between them."""
    word = [c for c in map(chr, range(sys.maxunicode + 1)) if is_word_character(c)]
    numbers = np.array([ord(c) for c in word])
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    ranges = "".join(f"\\U{run[0]:08x}-\\U{run[-1]:08x}" for run in runs)
    apostrophes = "".join(APOSTROPHES)
    return re.compile(rf"([{ranges}]+(?:[{apostrophes}][{ranges}]+)*)|[^\s{ranges}]")


def split_words(text: str) -> list[str]:
    """The lower-case words of a text, and '' wherever punctuation stands between two.

    The same characters make a word as in `masking_units.Words`.
    """
    return _word_pattern().findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True)
class WordNumbers:
    """A corpus as numbers of words, BREAK between phrases, in a memory-mapped file."""

    path: Path
    word_of: dict[int, str]

    def chunks(self, overlap: int) -> Iterator[np.ndarray]:
        """All numbers in pieces, each with the first `overlap` numbers of the next."""
        numbers = np.memmap(self.path, dtype=np.uint32, mode="r")
        for begin in range(0, len(numbers), CHUNK_WORDS):
            yield np.asarray(numbers[begin : begin + CHUNK_WORDS + overlap])


def number_words(texts: Iterable[str], *, path: Path) -> WordNumbers:
    """Writes the corpus as numbers. Beyond MOST_WORDS words those seen once so far are forgotten;
    if they come again they are new.
    """
    number_of: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
    number_of[""] = BREAK
    counts = np.zeros(1, dtype=np.int64)
    iterator = iter(texts)
    with path.open("wb") as stream:
        while documents := list(itertools.islice(iterator, DOCUMENTS_PER_WRITE)):
            words = (word for text in documents for word in (*split_words(text), ""))
            numbers = np.fromiter(map(number_of.__getitem__, words), dtype=np.uint32)
            stream.write(numbers.tobytes())
            new_counts = np.bincount(numbers, minlength=len(counts))
            new_counts[: len(counts)] += counts
            counts = new_counts
            least = 2
            while len(number_of) > MOST_WORDS:
                for word in [w for w, n in number_of.items() if counts[n] < least and w]:
                    del number_of[word]
                least += 1
    if len(counts) == 1:
        raise UserError("There are no words in this text: give another --train_file.")
    return WordNumbers(path, {number: word for word, number in number_of.items()})


# ---- counting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ngrams:
    """The frequent n-grams of one length: `words` [num, n] in ranks of words, `counts` [num]."""

    keys: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    num_positions: int


@dataclass(frozen=True)
class NgramCounts:
    """Frequent n-grams by length, the texts of frequent words by rank - 1, and whether the bound on
    memory has cost some counts."""

    by_length: dict[int, Ngrams]
    texts: list[str]
    is_exact: bool


def count_ngrams(texts: Iterable[str], *, folder: Path, min_count: int) -> NgramCounts:
    """All n-grams of 1 ... 5 words that occur `min_count` times, with exact counts as far as memory
    allows.

    One pass over the text writes word numbers to `folder`; then each length has a pass over these.
    A phrase can only be frequent if both phrases one word shorter in it are, so no others are
    counted.
    """
    corpus = number_words(texts, path=folder / "words.bin")
    counts = np.zeros(1, dtype=np.int64)
    for chunk in corpus.chunks(overlap=0):
        counts = _added(counts, np.bincount(chunk))
    num_words = int(counts.sum() - counts[BREAK])
    frequent = [n for n in np.flatnonzero(counts >= min_count).tolist() if n in corpus.word_of]
    frequent = [n for n in frequent if n != BREAK]
    rank_of = np.zeros(len(counts), dtype=np.uint64)
    rank_of[frequent] = np.arange(1, len(frequent) + 1)
    ranks = np.arange(1, len(frequent) + 1, dtype=np.uint64)
    tables = {1: Ngrams(ranks, ranks[:, None], counts[frequent], num_words)}
    is_exact = True
    for length in range(SHORTEST_PHRASE, LONGEST_PHRASE + 1):
        keys, key_counts, num_positions, exact = _count(corpus, rank_of, tables, length=length)
        is_exact &= exact
        kept = key_counts >= min_count
        keys, key_counts = keys[kept], key_counts[kept]
        prefixes = tables[length - 1].words[(keys >> np.uint64(32)).astype(np.int64) - 1]
        last = (keys & np.uint64(0xFFFFFFFF))[:, None]
        words = np.concatenate([prefixes, last], axis=1)
        tables[length] = Ngrams(keys, words, key_counts, num_positions)
    return NgramCounts(tables, [corpus.word_of[n] for n in frequent], is_exact)


def _added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(counts), len(more)), dtype=np.int64)
    total[: len(counts)] += counts
    total[: len(more)] += more
    return total


def _lookup(tables: dict[int, Ngrams], words: Sequence[np.ndarray]) -> np.ndarray:
    """Ranks of the n-grams that these columns of word ranks spell; 0: not frequent."""
    rank = words[0]
    for length, word in enumerate(words[1:], start=2):
        keys = tables[length].keys
        wanted = (rank << np.uint64(32)) | word
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        known = (rank > 0) & (word > 0)
        known &= keys[place] == wanted if len(keys) else False
        rank = np.where(known, place + 1, 0).astype(np.uint64)
    return rank


def _count(
    corpus: WordNumbers, rank_of: np.ndarray, tables: dict[int, Ngrams], *, length: int
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """(keys in order, counts, positions where so many words follow each other, counts are exact).

    A key is the rank of all words but the last, then the rank of the last.
    """
    total = (np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
    num_positions = 0
    is_exact = True
    chunks = corpus.chunks(overlap=length - 1)
    for chunk in tqdm(chunks, desc=f"{length} words", unit="M words", disable=None):
        num = len(chunk) - length + 1
        columns = [chunk[k : k + num] for k in range(length)]
        num_positions += int(np.count_nonzero(np.all([c != BREAK for c in columns], axis=0)))
        words = [rank_of[column] for column in columns]
        prefix, suffix = _lookup(tables, words[:-1]), _lookup(tables, words[1:])
        some = (prefix > 0) & (suffix > 0)
        found = np.unique((prefix[some] << np.uint64(32)) | words[-1][some], return_counts=True)
        total = _merged(total, found)
        least = 2
        while len(total[0]) > MOST_NGRAMS:
            kept = total[1] >= least
            total = (total[0][kept], total[1][kept])
            least, is_exact = least + 1, False
    return *total, num_positions, is_exact


def _merged(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts by key, added up; keys in order."""
    keys = np.concatenate([left[0], right[0]])
    counts = np.concatenate([left[1], right[1]])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    return keys[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts


# ---- scores -------------------------------------------------------------------------------------


def scores_of(counts: NgramCounts, *, length: int) -> np.ndarray:
    """min over cuts of log(p(phrase)^2 / product of p(part)) of each frequent phrase, [num]."""
    tables = counts.by_length
    log_p = {n: np.log(t.counts / max(t.num_positions, 1)) for n, t in tables.items()}
    columns = list(tables[length].words.T)
    # best[k]: the likeliest cut of the first k words into phrases shorter than the whole.
    best = [np.zeros(len(tables[length].counts))]
    for end in range(1, length + 1):
        ways = []
        for start in range(end):
            if end - start < length:
                rank = _lookup(tables, columns[start:end])
                ways.append(best[start] + log_p[end - start][rank.astype(np.int64) - 1])
        best.append(np.max(ways, axis=0))
    return 2 * log_p[length] - best[length]


def best_phrases(counts: NgramCounts, *, vocab_size: int) -> dict[int, list[str]]:
    """{words: phrases}, the best first; phrases of one score in the order of the alphabet."""
    chosen = {}
    for length, share in SHARES.items():
        wanted = round(vocab_size * share)
        scores = scores_of(counts, length=length).round(9)
        order = np.argsort(-scores, kind="stable")
        if len(order) > wanted > 0:  # with all that are as good as the last
            order = order[scores[order] >= scores[order[wanted - 1]]]
        words = counts.by_length[length].words
        named = [
            (-scores[row], " ".join(counts.texts[int(rank) - 1] for rank in words[row]))
            for row in order
        ]
        chosen[length] = [phrase for _, phrase in sorted(named)[:wanted]]
    return chosen


def describe(counts: NgramCounts, *, phrases: dict[int, list[str]], vocab_size: int) -> str:
    """How many phrases there were and are kept, and the last ones kept, to judge the size by."""
    num_words = counts.by_length[1].num_positions
    lines = [f"{num_words:,} words, {len(counts.texts):,} of them frequent"]
    for length, kept in phrases.items():
        num = len(counts.by_length[length].counts)
        last = f"; the last: {', '.join(kept[-3:])}" if kept else ""
        lines.append(f"{length} words: {len(kept):,} kept of {num:,} frequent phrases{last}")
    if not counts.is_exact:
        lines.append("Memory was bounded: phrases that are rare for long may be counted too low.")
    if all(len(kept) == len(counts.by_length[n].counts) for n, kept in phrases.items()):
        lines.append(
            f"--vocab_size {vocab_size} keeps every frequent phrase, whether its words predict "
            "each other or not: give a smaller one, or more text."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
