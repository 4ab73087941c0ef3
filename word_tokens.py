"""Token ids of documents, each distinct word encoded once.

T5's tokenizers cut a text at its spaces before anything else and encode each word by itself, so
words can be remembered:

    the cat sat on the mat    ->    the, cat, sat, on, mat are encoded; the second `the` is known

Most words of a text have been seen before, which makes this several times as fast as encoding every
document anew (benchmarks/input_pipeline.py), to the same ids. Where that could not be said of a
tokenizer or of a document, `can_remember_words` and `_may_join` say so.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

# Some 40 MB in each process. English web text has so many words in 50 MB.
MOST_WORDS = 200_000
MOST_CHARACTERS = 8_000_000  # a text without spaces has few words, and long ones
# Where cutting at a space could go wrong, should a tokenizer not be what it says.
PROBES = (
    "a b",
    "a  b\n\n c ",
    " a\tb\r\nc\u00a0d\u3000e\u200bf\x1cg\x85h",
    "x</s>y <pad> <extra_id_0>z <unk>",
    "caf\u00e9 cafe\u0301 \ufb01n \u2026 \U0001f600 {a} \u65e5\u672c\u8a9e",
)
# Characters that join the one before them into one grapheme, though they are letters.
JOINING_LETTERS = "\u0e33\u0eb3"
# Categories of characters that stand for themselves: letters, numbers, punctuation, symbols.
STANDING = ("Lu", "Ll", "Lt", "Lo", "Nd", "Nl", "No", "Sc", "Sm", "So")
STANDING += ("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po")


def can_remember_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer encodes each word between spaces as if it stood alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    pipeline = json.loads(backend.to_str())
    cuts = pipeline["pre_tokenizer"] or {}
    steps = cuts.get("pretokenizers", ())
    normalizer = pipeline["normalizer"]
    return (
        [step["type"] for step in steps] == ["WhitespaceSplit", "Metaspace"]
        and steps[1]["prepend_scheme"] == "always"
        and (normalizer is None or normalizer["type"] == "Precompiled")
        and pipeline["truncation"] is None
        and not any(set(token["content"]) & set(" \n") for token in pipeline["added_tokens"])
        and _agrees(backend.encode_batch_fast)
    )


def _agrees(encode: Callable) -> bool:
    def ids(texts: list[str]) -> list[int]:
        return [i for found in encode(texts, add_special_tokens=False) for i in found.ids]

    return all(ids([probe]) == ids(_cut(probe)) for probe in PROBES)


def _cut(text: str) -> list[str]:
    return text.replace("\n", " ").split(" ")


def _may_join(word: str) -> bool:
    """Whether a word could be one grapheme with the space before or after it.

    Normalisation goes by graphemes: a space with a combining accent is one, and changes as one.
    """
    return not all(
        end.isascii() or (unicodedata.category(end) in STANDING and end not in JOINING_LETTERS)
        for end in (word[0], word[-1])
    )


class WordEncoder:
    """Documents to the bytes of their token ids, one by one; remembers words.

    `encode` gives the token ids of each of many texts.
    """

    def __init__(self, encode: Callable[[Sequence[str]], list[list[int]]], *, dtype: np.dtype):
        self._encode = encode
        self._dtype = dtype
        self._known: dict[str, bytes] = {}
        self._num_characters = 0

    def __call__(self, documents: Sequence[str]) -> list[bytes]:
        if len(self._known) > MOST_WORDS or self._num_characters > MOST_CHARACTERS:
            self._known.clear()
            self._num_characters = 0
        known = self._known
        known[""] = b""
        cut = [_cut(document) for document in documents]
        new = {word for words in cut for word in words if word not in known}
        joining = {word for word in new if _may_join(word)}
        self._learn(sorted(new - joining))
        find = known.__getitem__
        if not joining:
            return [b"".join(map(find, words)) for words in cut]
        is_whole = [not joining.isdisjoint(words) for words in cut]
        whole = iter(
            self._bytes([text for text, asked in zip(documents, is_whole, strict=True) if asked])
        )
        return [
            next(whole) if asked else b"".join(map(find, words))
            for words, asked in zip(cut, is_whole, strict=True)
        ]

    def _learn(self, words: list[str]) -> None:
        self._known.update(zip(words, self._bytes(words), strict=True))
        self._num_characters += sum(map(len, words))

    def _bytes(self, texts: list[str]) -> list[bytes]:
        return [np.array(ids, dtype=self._dtype).tobytes() for ids in self._encode(texts)]
