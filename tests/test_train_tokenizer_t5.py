"""Proves that a trained tokenizer has T5's ids and encodes as SentencePiece itself does on text it
has not seen, that no text is silently lost on the way, that a folder is complete or absent, and
that sizes which cannot work are answered with one that does.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
import sentencepiece
from absl.testing import parameterized
from transformers import AutoTokenizer

import train_tokenizer_t5
from errors import UserError
from installed_docs import read_documents
from train_tokenizer_t5 import (
    MAX_LINE_BYTES,
    describe_tokenizer,
    make_tokenizer,
    sample_texts,
    table,
    train_sentencepiece,
    train_tokenizer,
    training_lines,
)

PACKAGES = ("asyncio", "email", "json")
SETTINGS = {"vocab_size": 600, "character_coverage": 0.9995, "num_threads": 2}
FEW = read_documents(packages=("json",))  # 10 kB: enough for 200 pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer of 600 pieces and 100 sentinels."""
    folder = tmp_path_factory.mktemp("tokenizers") / "new" / "english"
    train_tokenizer(read_documents(packages=PACKAGES), output_dir=folder, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder):
    return sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))


# ---- what comes out -----------------------------------------------------------------------------


def test_ids_are_those_of_t5(tokenizer):
    assert len(tokenizer) == 700
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    names = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert names == (0, 1, 2)
    assert tokenizer.bos_token_id is None
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    assert tokenizer.convert_tokens_to_ids(sentinels) == list(range(699, 599, -1))


def test_encodes_unseen_text_as_sentencepiece_does(tokenizer, processor):
    unseen = read_documents(part="task", packages=PACKAGES)
    unseen += ["\ufb01ne  caf\u00e9\t\u2460\n\n new ", "\u96ea \u2603 ~{x}"]
    assert len(unseen) > 30
    for text in unseen:
        assert tokenizer(text).input_ids == processor.encode(text) + [1]


def test_a_sentinel_is_one_token_between_words_that_come_back(tokenizer):
    ids = tokenizer("A <extra_id_0> is read <extra_id_99> the file.").input_ids
    assert ids.count(699) == ids.count(600) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "A is read the file."


def test_makes_of_t5s_model_what_the_library_makes_of_it(shared_data):
    folder = shared_data / "tokenizer" / "t5"
    library = AutoTokenizer.from_pretrained(folder)
    ours = make_tokenizer((folder / "spiece.model").read_bytes(), num_sentinels=100)
    assert ours.get_vocab() == library.get_vocab()
    for text in [
        "<extra_id_0>. Hello  world\n{",
        "caf\u00e9 </s>",
        *read_documents(packages=("json",)),
    ]:
        assert ours(text).input_ids == library(text).input_ids


def test_every_ascii_character_has_a_piece(tokenizer):
    for character in map(chr, range(33, 127)):
        assert 2 not in tokenizer(character).input_ids, character


def test_number_of_sentinels_and_pieces_is_free(tmp_path):
    train_tokenizer(FEW, output_dir=tmp_path / "few", vocab_size=110, num_sentinels=3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "few")
    tokens = ["<extra_id_2>", "<extra_id_1>", "<extra_id_0>", "<extra_id_3>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [110, 111, 112, 2]
    assert len(tokenizer) == 113


def test_same_text_gives_the_same_model():
    lines = list(training_lines(read_documents(packages=("json",))))
    first, second = (train_sentencepiece(lines, **SETTINGS | {"vocab_size": 200}) for _ in "ab")
    assert first == second


# ---- nothing is lost ----------------------------------------------------------------------------


class TrainingLinesTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("words", "ab cd\u00e9 " * 3000),
        ("wide_words", "\u96ea\u96ea \U0001f600 " * 2000),
        ("one_line_among_many", "a b\n\n" + "cd " * 3000 + "\ne\tf\u2028g"),
    )
    def test_short_enough_lines_hold_every_word(self, text):
        lines = list(training_lines([text]))
        self.assertEqual(" ".join(lines).split(), text.split())
        self.assertLessEqual(max(len(line.encode()) for line in lines), MAX_LINE_BYTES)
        self.assertTrue(all(lines))

    @parameterized.parameters("x", "\u96ea", "\U0001f600")
    def test_text_without_spaces_keeps_every_character(self, character):
        lines = list(training_lines([character * 5000]))
        self.assertEqual("".join(lines).replace(" ", ""), character * 5000)
        self.assertLessEqual(max(len(line.encode()) for line in lines), MAX_LINE_BYTES)

    def test_reserved_strings_go_and_their_line_stays(self):
        text = "up \u2585 to</s><pad> <extra_id_12>end <s>"
        self.assertEqual(list(training_lines([text])), ["up to end <s>"])

    def test_long_lines_and_lines_with_a_reserved_character_are_learnt_from(self):
        long_line = "zyzzyva " * 1000
        model = train_sentencepiece(
            list(training_lines([*FEW, long_line, *["\u00e6\u00e6\u00e6 \u2585"] * 20])),
            vocab_size=110,
            character_coverage=1.0,
            num_threads=1,
        )
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.assertNotEqual(pieces.piece_to_id("\u00e6"), 2)
        self.assertLen(pieces.encode("zyzzyva"), 1)


class SampleTextsTest(parameterized.TestCase):
    def test_fits_in_order_and_follows_the_seed(self):
        texts = [f"{i:04d}" * 25 for i in range(200)]
        first, again, other = (
            sample_texts(iter(texts), max_megabytes=0.005, seed=seed) for seed in (1, 1, 2)
        )
        self.assertLen(first, 50)
        self.assertEqual(first, sorted(first))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_every_text_is_as_likely(self):
        texts = [str(i) * 100 for i in range(5)]
        counts = Counter(
            text
            for seed in range(1000)
            for text in sample_texts(texts, max_megabytes=200e-6, seed=seed)
        )
        self.assertLess(max(abs(counts[text] - 400) for text in texts), 60)

    def test_bytes_are_counted_and_one_text_always_stays(self):
        self.assertLen(sample_texts(["\u96ea" * 10] * 4, max_megabytes=60e-6, seed=1), 2)
        self.assertLen(sample_texts(["a" * 100] * 4, max_megabytes=60e-6, seed=1), 1)
        self.assertLen(sample_texts(["a" * 100] * 4, max_megabytes=None, seed=1), 4)


# ---- mistakes -----------------------------------------------------------------------------------


def test_too_large_a_vocabulary_is_answered_with_one_that_works(tmp_path):
    texts = read_documents(packages=("json",))
    with pytest.raises(UserError, match=r"--vocab_size 32000 .* Type --vocab_size \d+") as caught:
        train_tokenizer(texts, output_dir=tmp_path / "t", vocab_size=32000)
    assert list(tmp_path.iterdir()) == []
    largest = int(re.search(r"Type --vocab_size (\d+)", str(caught.value))[1])
    assert (
        len(train_tokenizer(texts, output_dir=tmp_path / "t", vocab_size=largest)) == largest + 100
    )


def test_too_small_a_vocabulary_is_answered_with_the_number_of_characters(tmp_path):
    with pytest.raises(UserError, match=r"--vocab_size 50 is too small: .* take 98 pieces"):
        train_tokenizer(FEW, output_dir=tmp_path / "t", vocab_size=50)


@pytest.mark.parametrize("texts", [[], ["", " \n\t"], ["\u200b\u200b"]])
def test_no_text(texts, tmp_path):
    with pytest.raises(UserError, match="text to train on is empty"):
        train_tokenizer(texts, output_dir=tmp_path / "t", vocab_size=200)
    assert list(tmp_path.iterdir()) == []


class MistakesTest(parameterized.TestCase):
    @parameterized.parameters(
        ([], "No text to train on"),
        (["--train_file", "a.txt", "--character_coverage", "0.5"], "0.98"),
        (["--train_file", "a.txt", "--num_sentinels", "0"], "--num_sentinels 0"),
        (["--train_file", "a.txt", "--max_sample_megabytes", "0"], "--max_sample_megabytes 0"),
        (["--train_file", "no_such_file.txt"], "--train_file: no file matches 'no_such_file.txt'"),
    )
    def test_flags(self, argv, message):
        with self.assertRaisesRegex(UserError, message):
            train_tokenizer_t5.main([*argv, "--output_dir", "no_such_folder/t"])


def test_folder_is_replaced_only_if_nothing_else_is_lost(tmp_path):
    folder = tmp_path / "t"
    for vocab_size in (105, 110):
        train_tokenizer(FEW, output_dir=folder, vocab_size=vocab_size)
    assert len(AutoTokenizer.from_pretrained(folder)) == 210
    (folder / "model.safetensors").touch()
    with pytest.raises(UserError, match="holds 'model.safetensors'"):
        train_tokenizer(FEW, output_dir=folder, vocab_size=105)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert (folder / "tokenizer.json").exists()


# ---- the program --------------------------------------------------------------------------------


def test_describes_tokens_per_word_and_unknowns():
    model = train_sentencepiece(FEW, vocab_size=106, character_coverage=1.0, num_threads=1)
    facts = describe_tokenizer(make_tokenizer(model, num_sentinels=7), texts=["q \u2603", "zj"])
    # _ q, _ <unk>, _ z j
    assert facts == {
        "pieces": 106,
        "sentinels": 7,
        "tokens per word": pytest.approx(7 / 3),
        "unknown tokens, %": pytest.approx(100 / 7),
    }
    assert table(facts).splitlines()[1:3] == [
        "sentinels                 7",
        "tokens per word       2.333",
    ]


def test_program_prints_one_table_and_not_the_log_of_sentencepiece(tmp_path, capfd):
    (tmp_path / "a.txt").write_text("\n".join(FEW))
    words = ["--train_file", str(tmp_path / "*.txt"), "--vocab_size=110", "--num_threads=1"]
    train_tokenizer_t5.main([*words, "--output_dir", str(tmp_path / "t")])
    printed = capfd.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "pieces", "sentinels", "tokens", "unknown", "Wrote",
    ]  # fmt: skip
    assert {line.split(":")[0] for line in printed.err.splitlines()} == {"train_tokenizer_t5"}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "t")) == 210


def test_under_a_launcher_only_rank_0_writes(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n".join(FEW))
    monkeypatch.setenv("RANK", "1")
    words = ["--train_file", str(tmp_path / "a.txt"), "--output_dir", str(tmp_path / "t")]
    train_tokenizer_t5.main([*words, "--vocab_size=110"])
    assert not (tmp_path / "t").exists()
