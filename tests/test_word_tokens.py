"""Proves that remembering words changes no id: against the tokenizer itself on random text of
characters that join, vanish or become spaces, on real text, and where it must not be done."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

import word_tokens
from model_t5 import load_tokenizer
from token_files_t5 import Encoder
from word_tokens import WordEncoder, can_remember_words

# What normalisation deletes, joins to a neighbour or turns into a space, and what tokens look like.
NASTY = [
    *" \n\t\r\v\f\0\x01\x1c\x1f\x7f\x85\u00a0\u00ad\u1680\u2000\u2009\u200a\u200b\u200c\u200d",
    *"\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\ufffd\u0300\u0301\u0308\u0327\u20dd\ufe0f\u0600\u06dd",
    *"\u0903\u093e\u0e33\u0eb3\u0d4e\u1100\u1161\u11a8\uac00\uff9e\uff76\u3099\u304b\u00b4\u00a8\u2025",
    *"\U0001f600\U0001f3fd\U0001f468\U0001f1e9\U0001f1ea\U000e0041\ud7b0\u00c5\u212b\ufb01\u2460\u00bd",
    *"aAzZ019.,;:'\"-_()[]{}<>/\\@#\u2581\u00e9\u4e2d\u6587\u0645\u05d0",
    *("the", "cat", "</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_", "\r\n", "  ", " \n "),
]


def random_texts(number: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [*NASTY, *[" "] * 30, *"etaoin shrdlu" * 2]
    return ["".join(rng.choices(words, k=rng.randrange(40))) for _ in range(number)]


def ids_of_tokenizer(tokenizer, texts: list[str]) -> list[list[int]]:
    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


def remembered(tokenizer, texts: list[str], *, batch: int = 50) -> list[list[int]]:
    encoder = WordEncoder(lambda some: ids_of_tokenizer(tokenizer, some), dtype=np.dtype("<u2"))
    parts = [p for i in range(0, len(texts), batch) for p in encoder(texts[i : i + batch])]
    return [np.frombuffer(part, dtype="<u2").tolist() for part in parts]


def assert_equal(tokenizer, texts: list[str]) -> None:
    pairs = zip(
        texts, remembered(tokenizer, texts), ids_of_tokenizer(tokenizer, texts), strict=True
    )
    for text, found, expected in pairs:
        assert found == expected, ascii(text)


def test_random_text_of_nasty_characters(tokenizer):
    assert can_remember_words(tokenizer)
    assert_equal(tokenizer, random_texts(3000, seed=0))


def test_random_text_with_t5s_own_tokenizer(shared_data):
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "t5"))
    assert can_remember_words(tokenizer)
    assert_equal(tokenizer, random_texts(3000, seed=1))


def test_real_text_with_t5s_own_tokenizer(shared_data):
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "t5"))
    text = (shared_data / "text" / "wikitext-2.validation.txt").read_text()[:400_000]
    assert_equal(tokenizer, [text, *text.splitlines()])


def test_the_words_of_six_tokens_are_encoded_once(tokenizer):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return ids_of_tokenizer(tokenizer, texts)

    encoder = WordEncoder(encode, dtype=np.dtype("<u2"))
    for _ in range(2):
        encoder(["the cat sat on the mat", "the mat"])
    assert sorted(asked) == ["cat", "mat", "on", "sat", "the"]


def test_memory_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(word_tokens, "MOST_WORDS", 20)
    texts = random_texts(300, seed=2)
    assert remembered(tokenizer, texts, batch=3) == ids_of_tokenizer(tokenizer, texts)
    encoder = WordEncoder(lambda some: ids_of_tokenizer(tokenizer, some), dtype=np.dtype("<u2"))
    for number in range(100):
        encoder([f"{number} cats"])
        assert len(encoder._known) < 25
    monkeypatch.setattr(word_tokens, "MOST_CHARACTERS", 100)
    encoder = WordEncoder(lambda some: ids_of_tokenizer(tokenizer, some), dtype=np.dtype("<u2"))
    for number in range(50):
        encoder([str(number) * 30])
        assert len(encoder._known) < 7


def test_what_joins_the_space_before_it_is_encoded_with_it(tokenizer):
    """Space, joiner and accent are one grapheme and normalised as one; found by random text."""
    assert_equal(
        tokenizer, ["the \u200c\u0301 cat", "the cat", "\u0301", "the \U0001f3fd", "the cat"]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_tokens([AddedToken("\n", normalized=False)]),
        lambda t: t.add_tokens(["the cat"]),
        lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Strip()),
        lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda t: setattr(
            t.backend_tokenizer,
            "pre_tokenizer",
            pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
            ),
        ),
        lambda t: t.backend_tokenizer.enable_truncation(3),
    ],
)
def test_other_tokenizers_encode_whole_documents(tokenizer, change):
    assert can_remember_words(tokenizer)
    change(tokenizer)
    assert not can_remember_words(tokenizer)
    texts = ["the cat\nsat on the mat"]
    assert Encoder(tokenizer)(texts).ids.tolist() == ids_of_tokenizer(tokenizer, texts)[0]


def test_a_tokenizer_that_disagrees_with_itself_is_not_trusted(tokenizer, monkeypatch):
    monkeypatch.setattr(word_tokens, "_cut", lambda text: text.split())
    monkeypatch.setattr(word_tokens, "PROBES", ("a\x1cb",))
    assert not can_remember_words(tokenizer)
