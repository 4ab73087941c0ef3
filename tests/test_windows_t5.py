"""Proves where windows are cut, that mixtures give each source its share with a mask of its own for
every repetition, and that what is selected without a list is what a list would hold."""

import pickle

import numpy as np
import pytest
from conftest import make_sentences

from arguments_t5 import PRE_TRAINING
from errors import UserError
from flags import parse_flags
from training_windows_t5 import load_windows
from windows_t5 import (
    JoinedCuts,
    MixedWindows,
    Selection,
    count_windows,
    cut,
    parse_weights,
    share_out,
    split_windows,
    temperature_weights,
)


def write(path, lines) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def load(tmp_path, files, tokenizer, **settings):
    return load_windows(
        files=files,
        dataset_paths=None,
        dataset_names=None,
        text_column_name="text",
        tokenizer=tokenizer,
        cache_dir=tmp_path / "tokens",
        **{
            "window_tokens": 8,
            "validation_files": None,
            "validation_percentage": 0.0,
            **settings,
        },
    )


@pytest.mark.parametrize(
    ("num_tokens", "ends"),
    [(0, []), (1, []), (2, [2]), (4, [4]), (5, [3, 5]), (8, [4, 8]), (9, [4, 7, 9]), (6, [4, 6])],
)
def test_a_last_window_has_two_tokens(num_tokens, ends):
    assert cut(num_tokens, window_tokens=4).tolist() == ends
    assert count_windows(num_tokens, window_tokens=4) == len(ends)
    cuts = JoinedCuts(num_tokens, 4)
    starts, found = cuts.bounds(np.arange(len(cuts)))
    assert found.tolist() == ends and starts.tolist() == [0, *ends][: len(ends)]


def test_one_document_per_example(tmp_path, tokenizer):
    lines = make_sentences(40) + ["", "cat", "   ", "the cat " * 21, "the dog."] * 3
    windows = load(tmp_path, write(tmp_path / "a.txt", lines), tokenizer, window_tokens=6)
    apart = load(
        tmp_path, str(tmp_path / "a.txt"), tokenizer, window_tokens=6, one_document_per_example=True
    )
    assert len(apart.training) > len(windows.training)
    rows = [tokenizer(line, add_special_tokens=False).input_ids for line in lines]
    expected = []
    for row in rows:
        ends = cut(len(row), window_tokens=6).tolist()
        expected += [row[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    training = pickle.loads(pickle.dumps(apart.training))
    batch = training.__getitems__(range(len(training)))
    assert [window.tolist() for window in batch.windows] == expected
    flat = [token for row in rows if len(row) > 1 for token in row]
    assert [token for window in batch.windows for token in window.tolist()] == flat
    assert apart.facts.num_empty_documents == 6
    assert apart.facts.num_one_token_documents == sum(len(row) == 1 for row in rows)


def test_cutting_documents_in_parts_changes_nothing(tmp_path, tokenizer, monkeypatch):
    import windows_t5

    files = write(tmp_path / "a.txt", make_sentences(100))
    settings = {"one_document_per_example": True, "window_tokens": 5}
    whole = load(tmp_path, files, tokenizer, **settings).training.cuts.path
    expected = whole.read_bytes()
    whole.unlink()
    monkeypatch.setattr(windows_t5, "DOCUMENTS_PER_CUT", 7)
    assert load(tmp_path, files, tokenizer, **settings).training.cuts.path.read_bytes() == expected


@pytest.mark.parametrize("lines", [["", "cat", "  "], ["cat"]])
def test_documents_in_which_nothing_can_be_hidden(tmp_path, tokenizer, lines):
    files = write(tmp_path / "a.txt", lines)
    assert len(tokenizer("cat", add_special_tokens=False).input_ids) == 1
    with pytest.raises(UserError, match="nothing in one token can be hidden"):
        load(tmp_path, files, tokenizer, one_document_per_example=True)
    with pytest.raises(UserError, match="nothing in one token can be hidden"):
        load(tmp_path, files, tokenizer)


def test_spaces_alone_are_no_text(tmp_path, tokenizer):
    with pytest.raises(UserError, match="3 documents, all empty or of spaces"):
        load(tmp_path, write(tmp_path / "a.txt", [" ", "", "   "]), tokenizer)


def test_a_window_longer_than_the_corpus(tmp_path, tokenizer):
    files = write(tmp_path / "a.txt", make_sentences(5))
    windows = load(tmp_path, files, tokenizer, window_tokens=10_000)
    assert len(windows.training) == 1
    assert len(windows.training[7].windows[0]) == windows.facts.num_tokens
    assert windows.training[7].epochs.tolist() == [7]
    with pytest.raises(UserError, match="nothing is left to hold out"):
        load(tmp_path, files, tokenizer, window_tokens=10_000, validation_percentage=5.0)


@pytest.mark.parametrize("most", [None, 1, 7, 50])
def test_a_selection_is_what_a_list_would_be(most):
    for num_windows in (20, 333, 1607):
        training, held_out = split_windows(num_windows, validation_percentage=7.0)
        share, run = 0.07, training.run_windows
        runs = np.arange(num_windows) // run
        is_held_out = np.floor((runs + 1) * share) > np.floor(runs * share)
        for part, numbers in (
            (training, np.flatnonzero(~is_held_out)),
            (held_out, np.flatnonzero(is_held_out)),
        ):
            assert part.all().tolist() == numbers.tolist()
            limited = Selection(
                part.num_windows, part.run_windows, part.held_out_runs, part.is_held_out, most
            )
            chosen = limited.all().tolist()
            assert len(chosen) == len(set(chosen)) == min(most or num_windows, len(numbers))
            assert set(chosen) <= set(numbers.tolist()) and chosen == sorted(chosen)


# ---- mixtures -----------------------------------------------------------------------------------


@pytest.fixture
def three_sources(tmp_path) -> str:
    names = {"small": 20, "middle": 100, "large": 400}
    return ",".join(
        write(tmp_path / f"{name}.txt", make_sentences(count, seed=count))
        for name, count in names.items()
    )


def owners_of(windows, examples):
    totals = [len(part.cuts) for part in windows.training.sets]
    return np.searchsorted(np.cumsum(totals), examples, side="right")


def test_each_source_has_its_share_of_every_epoch(tmp_path, three_sources, tokenizer):
    windows = load(tmp_path, three_sources, tokenizer, mixing_weights="2,1,1")
    training = pickle.loads(pickle.dumps(windows.training))
    num, sizes = len(training), [len(part) for part in training.sets]
    assert num == sum(sizes)
    masks, large = set(), set()
    for epoch in range(4):
        batch = training.__getitems__(range(epoch * num, (epoch + 1) * num))
        owners = owners_of(windows, batch.examples)
        assert np.bincount(owners).tolist() == share_out(num, [0.5, 0.25, 0.25])
        masks |= set(zip(batch.epochs.tolist(), batch.examples.tolist(), strict=True))
        large |= set(batch.examples[owners == 2].tolist())
        again = batch.epochs[owners == 0]
        assert again.max() >= epoch  # the small source is repeated, each time with other masks
    assert len(masks) == 4 * num
    assert len(large) == sizes[2] or 4 * share_out(num, [0.5, 0.25, 0.25])[2] < sizes[2]
    with pytest.raises(UserError, match="There is no text"):
        empty = write(tmp_path / "empty.txt", [" "])
        load(tmp_path, f"{three_sources},{empty}", tokenizer, mixing_weights="1,1,1,1")


def test_before_a_window_is_repeated_all_others_were_seen(tmp_path, three_sources, tokenizer):
    windows = load(tmp_path, three_sources, tokenizer, mixing_weights="1,0,3")
    training = windows.training
    assert len(training.sets) == 2  # a weight of 0 leaves a source out
    for owner, part in enumerate(training.sets):
        num = len(training)
        seen = []
        for epoch in range(5):
            slots = np.flatnonzero(np.repeat([0, 1], training.counts) == owner) + epoch * num
            seen += training.__getitems__(slots).examples.tolist()
        for first in range(0, len(seen) - len(part) + 1, len(part)):
            assert len(set(seen[first : first + len(part)])) == len(part)


def test_a_mixture_by_size_is_t5s(tmp_path, three_sources, tokenizer):
    # Raffel et al. 2020, section 3.5.2: r = min(e, K) ** (1 / T), shares r / sum r.
    assert temperature_weights([10, 1000], temperature=1.0, maximum=90) == [0.1, 0.9]
    assert temperature_weights([100, 10000], temperature=2.0, maximum=None) == [10 / 110, 100 / 110]
    windows = load(tmp_path, three_sources, tokenizer, mixing_temperature=1e6)
    counts = windows.training.counts
    assert max(counts) - min(counts) <= 1
    plain = load(tmp_path, three_sources, tokenizer, mixing_maximum=10**9).training
    assert plain.counts == [len(part) for part in plain.sets]


def test_held_out_of_a_mixture_is_never_trained_on(tmp_path, three_sources, tokenizer):
    settings = {"mixing_weights": "1,1,1", "validation_percentage": 10.0}
    windows = load(tmp_path, three_sources, tokenizer, **settings)
    held_out = windows.held_out.__getitems__(range(len(windows.held_out))).examples.tolist()
    trained = windows.training.__getitems__(range(10 * len(windows.training))).examples.tolist()
    assert not set(held_out) & set(trained)
    totals = sum(len(part.cuts) for part in windows.training.sets)
    assert len(set(held_out)) == len(held_out) == len(windows.held_out)
    assert set(held_out) | set(trained) == set(range(totals))
    few = load(tmp_path, three_sources, tokenizer, max_validation_examples=5, **settings)
    assert len(few.held_out) == 5


def test_at_most_so_many_examples_of_a_mixture(tmp_path, three_sources, tokenizer):
    settings = {"mixing_weights": "1,1,2", "max_train_examples": 20}
    training = load(tmp_path, three_sources, tokenizer, **settings).training
    seen = training.__getitems__(range(5 * len(training))).examples.tolist()
    assert training.counts == [5, 5, 10] and len(set(seen)) == 20


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("0.7", "has 1 numbers, and there are 2 sources: a; b"),
        ("1,2,3", "has 3 numbers"),
        ("0,0", "one of them above 0"),
        ("-1,2", "at least 0"),
        ("nan,1", "at least 0"),
        ("inf,1", "at least 0"),
        ("a,b", "expected numbers, as in 0.7,0.3"),
        (",", "expected numbers, as in 0.7,0.3"),
    ],
)
def test_weights_that_make_no_sense(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_weights(weights, labels=["a", "b"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--mixing_weights 1,2 --mixing_temperature 2", "leave out --mixing_temperature"),
        ("--mixing_temperature 0", "expected a number above 0"),
        ("--mixing_temperature nan", "expected a number above 0"),
        ("--mixing_maximum 0", "--mixing_maximum 0: expected at least 1"),
        ("--preprocessing_num_workers 0", "expected at least 1"),
    ],
)
def test_flags_that_make_no_sense(words, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_flags(PRE_TRAINING, ["--train_file", "a.txt", *words.split()])


def test_shares_are_whole_and_sum_up():
    assert share_out(10, [1 / 3, 1 / 3, 1 / 3]) == [4, 3, 3]
    rng = np.random.Generator(np.random.PCG64(0))
    for total in (1, 7, 4096):
        weights = rng.dirichlet(np.ones(9)).tolist()
        counts = share_out(total, weights)
        assert sum(counts) == total
        assert all(abs(c - total * w) < 1 for c, w in zip(counts, weights, strict=True))


def test_a_file_belongs_to_the_first_entry_that_names_it(tmp_path, three_sources, tokenizer):
    files = f"{tmp_path}/small.txt,{tmp_path}/*.txt"
    windows = load(tmp_path, files, tokenizer, mixing_weights="1,1")
    assert [share.label for share in windows.shares] == files.split(",")
    assert isinstance(windows.training, MixedWindows)
    one, both = (part.file.facts.num_documents for part in windows.training.sets)
    assert (one, both) == (20, 500)
