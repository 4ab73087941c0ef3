"""Proves that the embedded corpus is the same however it is read, holds documentation only, each
passage once, and keeps the text of the word-order task out of pre-training; and that nothing but
the order of the words tells the two labels of that task apart.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from absl.testing import parameterized

import installed_docs
from errors import UserError
from installed_docs import (
    blocks,
    corpus_checksum,
    docstrings,
    make_word_order_task,
    part_of,
    plain_sentences,
    read_documents,
    shuffle_words,
    without_repeats,
)

SMALL_STDLIB = ("asyncio", "email", "json")  # 60 files: more than one process takes at a time


def long_text(words: str) -> str:
    """Returns a text that is long enough to be a document."""
    return f"{words} is told here at some length, so that it passes for a whole document of ours."


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package that cannot be imported, with one documented module in each kind of folder."""
    root = tmp_path / "documented_package"
    for name in ("b.py", "a/z.py", "a/tests/t.py", "_vendor/v.py", "externals/e.py", "a.txt"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""{long_text(name)}"""\nraise RuntimeError("imported")\n')
    (root / "__init__.py").write_text('raise RuntimeError("imported")')
    (root / "broken.py").write_text('"""' + long_text("broken") + '"""\ndef (:')
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


# ---- reading ------------------------------------------------------------------------------------


def test_reads_sources_in_order_without_importing_tests_or_other_peoples_code(package):
    documents = read_documents(part="all", packages=("documented_package",))
    assert [text.split()[0] for text in documents] == ["a/z.py", "b.py"]


def test_number_of_processes_changes_nothing():
    one, two = (read_documents(part="all", packages=SMALL_STDLIB, num_processes=n) for n in (1, 2))
    assert len(one) > 200
    assert one == two


def test_every_document_is_in_exactly_one_part():
    corpus, task, everything = (
        read_documents(part=part, packages=SMALL_STDLIB) for part in ("corpus", "task", "all")
    )
    assert Counter(corpus + task) == Counter(everything)
    assert 0.08 < len(task) / len(everything) < 0.25
    assert not set(corpus) & set(task)


def test_part_of_a_text_is_fixed():
    chosen = [n for n in range(30) if part_of(long_text(str(n))) == "task"]
    assert chosen == [6, 19, 23, 24, 25, 27]


def test_checksum_tells_order_and_borders_apart():
    assert corpus_checksum(["a", "b"]) == hashlib.sha256(b"a\0b\0").hexdigest()
    assert len({corpus_checksum(texts) for texts in (["a", "b"], ["b", "a"], ["ab"])}) == 3


def test_version_names_python_and_every_package():
    words = installed_docs.corpus_version().replace(",", "").split()
    names = {"python", "datasets", "numpy", "scipy", "scikit-learn", "torch", "transformers"}
    assert set(words[::2]) == names | {"rules"}


def test_missing_package_and_unknown_part_say_what_to_type():
    with pytest.raises(UserError, match="'no_such_package', which is not installed.*make install"):
        read_documents(packages=("no_such_package",))
    with pytest.raises(UserError, match="'train'.*'corpus', 'task', 'all'"):
        read_documents(part="train", packages=("json",))


def test_import_is_light():
    code = "import sys, installed_docs; print({'torch', 'transformers', 'numpy'} & {*sys.modules})"
    root = Path(installed_docs.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# ---- docstrings and documents -------------------------------------------------------------------


def test_docstrings_come_clean_and_in_the_order_of_the_source():
    source = b'''"""Module."""
class A:
    """Class.

    Plain.
        Indented.
    """
    def method(self):
        "not \\ud800 text"
        if True:
            async def inner():
                """Inner."""
        else:
            """A string, not a docstring."""
try:
    pass
except ValueError:
    def handler():
        """Handler."""
x = """A value."""
'''
    assert docstrings(source) == [
        "Module.",
        "Class.\n\nPlain.\n    Indented.",
        "not ? text",
        "Inner.",
        "Handler.",
    ]
    assert docstrings(b"def (:") == []
    assert docstrings("# -*- coding: latin-1 -*-\n'caf\u00e9'".encode("latin-1")) == ["caf\u00e9"]


def test_blocks_are_paragraphs_and_heads_with_what_is_below():
    document = "Splits.\n\nArgs:\n    text: What,\n        as is.\n    sep: Where.\nDone,\nsaid."
    assert list(blocks(document)) == [
        "Splits.",
        "\nArgs:",
        "    text: What,\n        as is.",
        "    sep: Where.",
        "Done,\nsaid.",
    ]
    assert "\n".join(blocks(document)) == document


def test_repeated_blocks_stay_once_and_short_ones_stay():
    shared = "    pad_token (str):\n        " + long_text("The token for padding")
    wrapped = shared.replace(" here", "\n        here")
    first = f"{long_text('First')}\n\nArgs:\n{shared}"
    second = f"{long_text('Second')}\n\nArgs:\n{wrapped}\n    x: y"
    short = "Second is told here at some length, and so it stays in longer ones."
    second += f"\n\n{short}"
    documents = [first, short, second, first, f"Args:\n{shared}"]
    expected = f"{long_text('Second')}\n\nArgs:\n    x: y\n\n{short}"
    assert without_repeats(documents) == [first, expected]


# ---- sentences ----------------------------------------------------------------------------------


class PlainSentencesTest(parameterized.TestCase):
    @parameterized.named_parameters(
        (
            "wrapped",
            "Return a new list\nof the given items. It is not sorted in any way.",
            ["return a new list of the given items", "it is not sorted in any way"],
        ),
        (
            "below_a_head",
            "axis : int\n    The axis along which to sum.",
            ["the axis along which to sum"],
        ),
        (
            "punctuation",
            'However, the ("first") item: it is kept; always.',
            ["however the first item it is kept always"],
        ),
        (
            "names_keep_their_case",
            "NumPy is used for the arrays here. HTTP is used for the pages here.",
            ["NumPy is used for the arrays here", "HTTP is used for the pages here"],
        ),
        (
            "one_letter_words",
            "A list is returned to the caller. I do not see it at all.",
            ["a list is returned to the caller", "I do not see it at all"],
        ),
        (
            "one_name_in_six_words",
            "The value of `max_len` is not used by us.",
            ["the value of `max_len` is not used by us"],
        ),
    )
    def test_accepts(self, document, expected):
        self.assertEqual([" ".join(words) for words in plain_sentences(document)], expected)

    @parameterized.named_parameters(
        ("no_capital", "returns the sum of all the items."),
        ("no_full_stop", "Returns the sum of all the items"),
        ("question", "Is the sum of all the items known?"),
        ("ellipsis", "Returns the sum of all the items..."),
        ("five_words", "Returns the sum of all."),
        ("twenty_five_words", "The " + "sum of the items " * 6 + "."),
        ("doctest", ">>> The sum of all the items is in this."),
        ("assignment", "The sum of all the items is x=3."),
        ("directive", ".. note:: The sum of all the items is in this."),
        ("list_entry", "- The sum of all the items is in this."),
        ("table", "The sum of all the items is a|b."),
        ("rule", "Notes ----- The sum of all the items."),
        ("abbreviation_inside", "The sum of all items by Knuth et al. is in this."),
        ("too_many_names", "The `sum_of` is in `that_one` and in `this_one`."),
        ("few_function_words", "Fast Fourier transform backend selection routines."),
    )
    def test_rejects(self, document):
        self.assertEqual(list(plain_sentences(document)), [])


# ---- the task -----------------------------------------------------------------------------------

NOUNS = ("list", "array", "file", "model", "class", "table", "token", "window", "string", "graph")
DOCUMENTS = [
    f"The {a} is read before the {b}, and so is not lost. It is also said that a {a} of the {b} "
    "may be used for this."
    for a in NOUNS
    for b in NOUNS
    if a != b
]
SIZES = {"num_train": 100, "num_validation": 20, "num_test": 30}
# "the list is read before the array" and its reverse are one bag of words: 45 + 45 sentences.
ORIGINALS = {" ".join(words) for text in DOCUMENTS for words in plain_sentences(text)}
SMALLER = {"num_train": 50, "num_validation": 10, "num_test": 30}


def bag(sentence: str) -> tuple[str, ...]:
    return tuple(sorted(sentence.split()))


def all_rows(task: dict[str, list[dict]]) -> list[dict]:
    return [row for rows in task.values() for row in rows]


class WordOrderTaskTest(parameterized.TestCase):
    @parameterized.parameters(None, 1, 2)
    def test_half_are_as_written_and_half_are_not(self, num_swaps):
        task = make_word_order_task(documents=DOCUMENTS, seed=1, num_swaps=num_swaps, **SMALLER)
        self.assertEqual(
            {k: len(v) for k, v in task.items()}, dict(train=50, validation=10, test=30)
        )
        for rows in task.values():
            self.assertEqual([row["idx"] for row in rows], list(range(len(rows))))
            self.assertEqual(sum(row["label"] for row in rows), len(rows) // 2)
        for row in all_rows(task):
            self.assertEqual(row["sentence"] in ORIGINALS, row["label"] == 1, row)
            self.assertIn(bag(row["sentence"]), {bag(sentence) for sentence in ORIGINALS})

    def test_no_sentence_comes_twice_in_whatever_order(self):
        rows = all_rows(make_word_order_task(documents=DOCUMENTS, seed=1, **SMALLER))
        self.assertLen({bag(row["sentence"]) for row in rows}, len(rows))

    def test_seed_decides_the_rows_and_swaps_leave_sentences_and_labels(self):
        first, again, other = (
            make_word_order_task(documents=DOCUMENTS, seed=seed, **SMALLER) for seed in (1, 1, 2)
        )
        swapped = make_word_order_task(documents=DOCUMENTS, seed=1, num_swaps=1, **SMALLER)
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertNotIn([row["label"] for row in first["train"]], ([0, 1] * 25, [1, 0] * 25))
        self.assertEqual(
            [(row["label"], bag(row["sentence"])) for row in all_rows(first)],
            [(row["label"], bag(row["sentence"])) for row in all_rows(swapped)],
        )

    def test_sentences_of_the_corpus_are_left_out_in_whatever_layout(self):
        corpus = [
            'Note:\n  "THE LIST is read,\n  before the array, and so is not lost" they say.',
            "The file is read before the array, and so is found.",
        ]
        documents = [
            "The list is read before the array, and so is not lost.",
            "The file is read before the array, and so is not lost.",
            "The graph is read before the array, and so is not lost.",
        ]
        arguments = {"documents": documents, "unseen_in": corpus, "seed": 1}
        none = {"num_validation": 0, "num_test": 0}
        rows = make_word_order_task(num_train=2, **arguments, **none)["train"]
        self.assertEqual(
            {n for row in rows for n in ("list", "file", "graph") if n in row["sentence"]},
            {"file", "graph"},
        )
        with self.assertRaisesRegex(UserError, "3 rows .* hold 2"):
            make_word_order_task(num_train=3, **arguments, **none)

    def test_mistakes_say_what_to_type(self):
        with self.assertRaisesRegex(UserError, "150 rows .* hold 90 .* lower --num_train"):
            make_word_order_task(documents=DOCUMENTS, seed=1, **SIZES)
        with self.assertRaisesRegex(UserError, "--num_swaps 0 .* type 1 or more"):
            make_word_order_task(documents=DOCUMENTS, seed=1, num_swaps=0, **SMALLER)


class ShuffleWordsTest(parameterized.TestCase):
    def test_one_swap_is_of_two_neighbours_that_differ(self):
        words = ["so", "so", "it", "is"]
        found = {tuple(shuffle_words(words, rng=random.Random(i), num_swaps=1)) for i in range(50)}
        self.assertEqual(found, {("so", "it", "so", "is"), ("so", "so", "is", "it")})

    def test_full_shuffle_reaches_every_other_order(self):
        found = {tuple(shuffle_words("abc", rng=random.Random(i))) for i in range(100)}
        self.assertLen(found, 5)
        self.assertNotIn(tuple("abc"), found)


def test_program_writes_the_three_files_and_one_line_of_facts(tmp_path, monkeypatch, capsys):
    documents = [text for text in DOCUMENTS if part_of(text) == "task"] + [long_text("Corpus")]
    assert part_of(documents[-1]) == "corpus"
    monkeypatch.setattr(installed_docs, "read_documents", lambda *, part: documents)
    sizes = ["--num_train", "6", "--num_validation", "2", "--num_test", "4"]
    installed_docs.main(["--output_dir", str(tmp_path / "new" / "data"), *sizes])
    files = sorted((tmp_path / "new" / "data").iterdir())
    names = [f"word_order.{split}.jsonl" for split in ("test", "train", "validation")]
    assert [file.name for file in files] == names
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [len(split) for split in rows] == [4, 6, 2]
    assert set(rows[0][0]) == {"idx", "sentence", "label"}
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert f"{len(documents)} documents" in printed and corpus_checksum(documents) in printed
