"""Trains a T5 tokenizer: a SentencePiece unigram model and <extra_id_0>, ...

    python train_tokenizer_t5.py --dataset_paths installed_docs \\
        --vocab_size 8192 --output_dir my_tokenizer       # a minute on a laptop
    python train_tokenizer_t5.py --train_file 'corpus/*.jsonl.gz' \\
        --output_dir my_tokenizer

Settings are those of T5's own vocabulary: pad 0, EOS 1, unknown 2, no BOS, NFKC
normalisation, no byte fallback; but every ASCII character has a piece, where T5
reads `{` as <unk>. `AutoTokenizer.from_pretrained(OUTPUT_DIR)` loads what comes
out.
"""

from __future__ import annotations

from arguments_t5 import TOKENIZER
from flags import answer_early, parse_flags

if __name__ == "__main__":  # --help and misspelt flags do not wait for torch
    answer_early(TOKENIZER, about=__doc__)

import heapq
import io
import os
import random
import re
import shutil
import string
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from corpora_t5 import read_texts
from errors import UserError, run_program

PAD_ID, EOS_ID, UNKNOWN_ID = 0, 1, 2
MAX_LINE_BYTES = 4192  # SentencePiece leaves out longer lines, and says so only in its log
MAX_CHARACTER_BYTES = 4
# What SentencePiece reserves: lines with U+2585 are left out, the others must not become pieces.
RESERVED = re.compile(r"\u2585|<pad>|</s>|<unk>|<extra_id_\d+>")
LARGE_CORPUS_BYTES = 1_000_000_000  # above, SentencePiece wants 64-bit suffix arrays
# Whatever the text is, a task will have numbers, capitals and question marks.
REQUIRED_CHARACTERS = string.ascii_letters + string.digits + string.punctuation
NUM_DESCRIBED_LINES = 2000
MODEL_FILE = "spiece.model"
WRITTEN_FILES = {
    MODEL_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains one tokenizer and prints what it is like; under a launcher, rank 0 does."""
    (args,) = parse_flags(TOKENIZER, argv, about=__doc__)
    if os.environ.get("RANK", "0") != "0":
        return
    output_dir = Path(args.output_dir)
    require_replaceable(output_dir)
    texts = read_texts(
        files=args.train_file,
        dataset_paths=args.dataset_paths,
        dataset_names=args.dataset_names,
        text_column_name=args.text_column_name,
    )
    texts = tqdm(texts, desc="read", unit=" documents", disable=None)
    sample = sample_texts(texts, max_megabytes=args.max_sample_megabytes, seed=args.seed)
    tokenizer = train_tokenizer(
        sample,
        output_dir=output_dir,
        vocab_size=args.vocab_size,
        num_sentinels=args.num_sentinels,
        character_coverage=args.character_coverage,
        num_threads=args.num_threads,
    )
    print(table(describe_tokenizer(tokenizer, texts=sample)))
    print(f"Wrote {output_dir}: --tokenizer_name {output_dir}")


# ---- text to lines ------------------------------------------------------------------------------


def sample_texts(texts: Iterable[str], *, max_megabytes: float | None, seed: int) -> list[str]:
    """Returns as many texts, in their order, as fit; each is as likely to be among them.

    Every text draws a number and the lowest leave, so one pass over a stream is enough and no
    more than the sample is ever in memory.
    """
    max_bytes = float("inf") if max_megabytes is None else max_megabytes * 1e6
    rng = random.Random(seed)
    num_bytes = 0
    kept: list[tuple[float, int, str]] = []
    for index, text in enumerate(texts):
        heapq.heappush(kept, (rng.random(), index, text))
        num_bytes += len(text.encode())
        while num_bytes > max_bytes and len(kept) > 1:
            num_bytes -= len(heapq.heappop(kept)[2].encode())
    return [text for _, _, text in sorted(kept, key=lambda entry: entry[1])]


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yields the words of the texts in lines of at most 4192 bytes: SentencePiece skips longer.

    Where a line breaks does not matter, because no piece holds a space. A word that alone is too
    long, as text without spaces may be, is cut between characters.
    """
    for text in texts:
        for line in RESERVED.sub(" ", text).splitlines():
            if len(line) * MAX_CHARACTER_BYTES > MAX_LINE_BYTES:
                yield from _short_lines(line.split())
            elif not line.isspace() and line:
                yield " ".join(line.split())


def _short_lines(words: list[str]) -> Iterator[str]:
    line: list[str] = []
    num_bytes = 0
    width = MAX_LINE_BYTES // MAX_CHARACTER_BYTES
    for part in (word[i : i + width] for word in words for i in range(0, len(word), width)):
        num_bytes += len(part.encode()) + 1
        if line and num_bytes > MAX_LINE_BYTES:
            yield " ".join(line)
            line, num_bytes = [], len(part.encode()) + 1
        line.append(part)
    if line:
        yield " ".join(line)


# ---- lines to a tokenizer -----------------------------------------------------------------------


def train_tokenizer(
    texts: Iterable[str],
    *,
    output_dir: Path,
    vocab_size: int,
    num_sentinels: int = 100,
    character_coverage: float = 0.9995,
    num_threads: int = 16,
) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that `output_dir` then holds, with `vocab_size + num_sentinels` ids.

    ids    0      1     2      3 ...  vocab_size - 1   vocab_size ...   vocab_size + 99
    token  <pad>  </s>  <unk>  pieces                  <extra_id_99>    <extra_id_0>

    The folder appears when it is complete, or not at all.
    """
    require_replaceable(output_dir)
    lines = list(training_lines(texts))
    unfinished = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        model = train_sentencepiece(
            lines,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            num_threads=num_threads,
        )
        (unfinished / MODEL_FILE).write_bytes(model)
        make_tokenizer(model, num_sentinels=num_sentinels).save_pretrained(unfinished)
        _move_into_place(unfinished, output_dir)
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir} cannot be written ({error.strerror}). Give a folder that "
            "can."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return AutoTokenizer.from_pretrained(output_dir)


def train_sentencepiece(
    lines: Sequence[str], *, vocab_size: int, character_coverage: float, num_threads: int
) -> bytes:
    """Returns a serialised SentencePiece unigram model with T5's settings."""
    num_bytes = sum(len(line.encode()) for line in lines)
    _note(f"{num_bytes / 1e6:.1f} MB: looking for {vocab_size} pieces on {num_threads} threads ...")
    start = time.monotonic()
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            required_chars=REQUIRED_CHARACTERS,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            normalization_rule_name="nmt_nfkc",
            byte_fallback=False,
            max_sentence_length=MAX_LINE_BYTES,
            train_extremely_large_corpus=num_bytes > LARGE_CORPUS_BYTES,
            num_threads=num_threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _as_user_error(error, vocab_size=vocab_size) from error
    _note(f"done in {time.monotonic() - start:.0f} s")
    return model.getvalue()


def _as_user_error(error: RuntimeError, *, vocab_size: int) -> Exception:
    """Returns what to type where SentencePiece says which size fits, else the error itself."""
    if re.search(r"!sentences_.empty|all_chars_count", str(error)):
        return UserError(
            "The text to train on is empty: give --train_file or --dataset_paths with text."
        )
    if found := re.search(r"too high .*value <= (\d+)", str(error)):
        return UserError(
            f"--vocab_size {vocab_size} is more than this text can fill. Type --vocab_size "
            f"{found[1]} or less, or give more text."
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        return UserError(
            f"--vocab_size {vocab_size} is too small: the characters of this text alone take "
            f"{found[1]} pieces. Type a larger one, or a lower --character_coverage."
        )
    return error


def make_tokenizer(model: bytes, *, num_sentinels: int) -> T5Tokenizer:
    """Returns the tokenizer of a SentencePiece model, its sentinels counted from the last id."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    sentinels = [f"<extra_id_{i}>" for i in range(num_sentinels)]
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return T5Tokenizer(
        vocab=pieces + [(sentinel, 0.0) for sentinel in reversed(sentinels)],
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap,
        extra_ids=num_sentinels,
    )


# ---- files --------------------------------------------------------------------------------------


def require_replaceable(output_dir: Path) -> None:
    """Raises a UserError where replacing `output_dir` would take more away than a tokenizer."""
    if not output_dir.name or (output_dir.exists() and not output_dir.is_dir()):
        raise UserError(f"--output_dir {output_dir} cannot be replaced: give a new folder.")
    others = sorted({path.name for path in output_dir.glob("*")} - WRITTEN_FILES)
    if others:
        raise UserError(
            f"--output_dir {output_dir} holds {others[0]!r}, which is no part of a tokenizer and "
            "would be lost: give a new folder."
        )


def _move_into_place(unfinished: Path, output_dir: Path) -> None:
    before = unfinished.with_suffix(".before")
    if output_dir.exists():
        os.replace(output_dir, before)
    os.replace(unfinished, output_dir)
    shutil.rmtree(before, ignore_errors=True)


# ---- what came out ------------------------------------------------------------------------------


def describe_tokenizer(
    tokenizer: PreTrainedTokenizerBase, *, texts: Iterable[str]
) -> dict[str, float]:
    """Returns sizes, and tokens per word and the share of <unk> on up to 2000 even lines."""
    lines = list(training_lines(texts))
    lines = lines[:: -(-len(lines) // NUM_DESCRIBED_LINES)]
    ids = [i for ids in tokenizer(lines, add_special_tokens=False).input_ids for i in ids]
    num_sentinels = sum(token.startswith("<extra_id_") for token in tokenizer.get_vocab())
    return {
        "pieces": len(tokenizer) - num_sentinels,
        "sentinels": num_sentinels,
        "tokens per word": len(ids) / sum(len(line.split()) for line in lines),
        "unknown tokens, %": 100 * ids.count(tokenizer.unk_token_id) / len(ids),
    }


def table(facts: dict[str, float]) -> str:
    """Returns one line per fact: counts whole, shares with three digits."""
    width = max(map(len, facts))
    shown = {k: f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in facts.items()}
    return "\n".join(f"{name:<{width}}  {value:>8}" for name, value in shown.items())


def _note(text: str) -> None:
    print(f"train_tokenizer_t5: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)
