"""Proves that span corruption is T5's: its lengths, its texts, its uniform masks, its sentinels;
that every objective writes what docs/objectives.md draws, loses no token and keeps to its lengths;
and that a mask depends on (seed, epoch, example) and on nothing else."""

import dataclasses
import math
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy.stats import chisquare

from corruption_t5 import (
    OBJECTIVES,
    Ragged,
    noise_spans_to_sentinels,
    sentinels_then_noise_spans,
    settings_of,
    span_corruption,
    span_corruption_lengths,
)
from errors import UserError
from masking_units import Units
from noise_masks import ExampleRng, noise_counts, random_spans_mask
from objective_mixtures import SETTINGS

SENTINELS = np.array([99, 98, 97, 96])
A, B, C, D, E, F = 11, 12, 13, 14, 15, 16


def rng_of(examples, *, seed=1, epochs=0) -> ExampleRng:
    examples = np.asarray(examples)
    return ExampleRng(seed=seed, epochs=np.full(len(examples), epochs), examples=examples)


def write(function, mask: str) -> list[int]:
    hidden = np.array([[letter == "#" for letter in mask]])
    tokens = np.array([[A, B, C, D, E, F][: len(mask)]], dtype=np.uint16)
    return function(tokens, hidden, SENTINELS).ids.tolist()


class WritingTest(parameterized.TestCase):
    @parameterized.parameters(
        ("..#.##", [A, B, 99, D, 98], [99, C, 98, E, F]),
        (".#.#.#", [A, 99, C, 98, E, 97], [99, B, 98, D, 97, F]),
        (".....#", [A, B, C, D, E, 99], [99, F]),
        # The text ends in the clear: T5 writes one closing sentinel.
        (".##...", [A, 99, D, E, F], [99, B, C, 98]),
        # The text starts hidden: <0> stands for a b on both sides, where T5 shifts the numbers.
        ("##..#.", [99, C, D, 98, F], [99, A, B, 98, E, 97]),
        ("######", [99], [99, A, B, C, D, E, F]),
        ("......", [A, B, C, D, E, F], [99]),
    )
    def test_six_tokens(self, mask, inputs, targets):
        self.assertEqual(write(noise_spans_to_sentinels, mask), inputs)
        self.assertEqual(write(sentinels_then_noise_spans, mask), targets)

    def test_rows_with_different_spans_share_a_batch(self):
        tokens = np.array([[A, B, C, D], [A, B, C, D]])
        mask = np.array([[False, True, False, True], [False, False, True, True]])
        ragged = noise_spans_to_sentinels(tokens, mask, SENTINELS)
        padded = ragged.pad(width=6, fill=0, end=1)
        np.testing.assert_array_equal(padded, [[A, 99, C, 98, 1, 0], [A, B, 99, 1, 0, 0]])

    def test_too_few_sentinels_is_said_with_numbers(self):
        tokens = np.arange(12)[None]
        mask = (np.arange(12) % 2 == 1)[None]
        with pytest.raises(UserError, match=r"needs 6 sentinel tokens .* has 4"):
            noise_spans_to_sentinels(tokens, mask, SENTINELS)


class LengthsTest(parameterized.TestCase):
    # T5's own numbers: (inputs, density, mean span) -> (raw tokens, targets, spans).
    @parameterized.parameters(
        (64, 0.15, 3.0, 70, 14, 3),
        (128, 0.15, 3.0, 141, 29, 7),
        (256, 0.15, 3.0, 284, 58, 14),
        (512, 0.15, 3.0, 568, 114, 28),
        (1024, 0.15, 3.0, 1137, 229, 57),
        (2048, 0.15, 3.0, 2274, 456, 114),
        (512, 0.15, 8.0, 588, 100, 11),
        (512, 0.5, 3.0, 766, 512, 128),
        (512, 0.5, 8.0, 908, 512, 57),
        (512, 0.15, 64.0, 600, 92, 1),
        (512, 0.5, 64.0, 1006, 512, 8),
        (512, 0.15, 1.0, 511, 155, 77),
    )
    def test_t5s_table(self, inputs, density, mean, raw, targets, spans):
        settings = {"noise_density": density, "mean_noise_span_length": mean}
        self.assertEqual(span_corruption_lengths(inputs, **settings), (raw, targets))
        self.assertEqual(noise_counts(raw, **settings)[1], spans)

    @parameterized.product(
        inputs=(32, 100, 512),
        noise=((0.15, 1.0), (0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 8.0)),
        roll=(False, True),
    )
    def test_what_is_written_fits_what_was_promised(self, inputs, noise, roll):
        density, mean = noise
        objective = span_corruption(
            input_length_tokens=inputs,
            noise_density=density,
            mean_noise_span_length=mean,
            random_roll=roll,
        )
        tokens = np.tile(np.arange(1000, 1000 + objective.raw_length_tokens), (50, 1))
        sentinels = np.arange(999, 999 - objective.num_sentinels, -1)
        wrote, targets = objective.corrupt(tokens, rng=rng_of(range(50)), sentinels=sentinels)
        longest = (wrote.lengths.max() + 1, targets.lengths.max() + 1)
        self.assertLessEqual(longest[0], inputs)
        self.assertLessEqual(longest[1], objective.target_length_tokens)
        if not roll and density == 0.15:
            self.assertEqual(longest, (inputs, objective.target_length_tokens))


def test_lengths_against_an_independent_recomputation():
    # T5's search starts at inputs - 1 and ends before the first window that is too long.
    for inputs in (16, 33, 64, 100, 128, 200, 256, 333, 512, 777, 1024, 2048):
        for density in (0.1, 0.15, 0.25, 0.3, 0.5):
            for mean in (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 32.0, 64.0):
                raw = np.arange(inputs - 1, 4 * inputs)
                noise = np.rint(raw * density).astype(int)
                spans = np.rint(noise / mean).astype(int)
                best = np.flatnonzero((raw - noise + spans + 1)[1:] > inputs)[0]
                expected = (raw[best], noise[best] + spans[best] + 1)
                if density == 0.5 and expected[1] > (raw - noise + spans + 1)[best]:
                    expected = (expected[0] - 1, expected[1] - 1)
                found = span_corruption_lengths(
                    inputs, noise_density=density, mean_noise_span_length=mean
                )
                assert found == expected, (inputs, density, mean)


def test_a_single_span_is_counted_where_t5_rounds_it_away():
    # 128 inputs, mean span 64: 22 hidden tokens are round(22 / 64) = 0 spans to T5's lengths.
    settings = {"noise_density": 0.15, "mean_noise_span_length": 64.0}
    assert span_corruption_lengths(128, **settings) == (149, 23)
    objective = make("span_corruption", input_length_tokens=128, **settings)
    assert (objective.raw_length_tokens, objective.target_length_tokens) == (148, 24)


# ---- every objective ----------------------------------------------------------------------------

TOKENS = "abcdef"
ORDINARY_IDS = np.arange(30, 60)


def make(name: str, *, input_length_tokens: int, units: Units | None = None, **settings):
    settings = {"noise_density": 0.15, "mean_noise_span_length": 3.0, **settings}
    settings |= {"ordinary_ids": ORDINARY_IDS, "units": units}
    taken = {key: value for key, value in settings.items() if key in settings_of(name)}
    return OBJECTIVES[name](input_length_tokens=input_length_tokens, **taken)


def drawings() -> list[list[str]]:
    text = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()
    blocks = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    return [block.splitlines() for block in blocks if block.split()[0] in OBJECTIVES]


def test_every_objective_is_drawn():
    assert {drawing[0].split()[0] for drawing in drawings()} == set(OBJECTIVES)


@pytest.mark.parametrize("drawing", drawings(), ids=lambda lines: "-".join(lines[0].split()))
def test_an_objective_writes_what_is_drawn(drawing):
    name, *words = drawing[0].split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    settings = {SETTINGS[k]: v == "true" if v.isalpha() else float(v) for k, v in given.items()}
    rows = {line.split()[0]: line.split()[1:] for line in drawing[1:]}
    mask = np.array([[letter == "#" for letter in rows["mask"]]])
    objective = make(name, input_length_tokens=64, **settings)
    fixed = dataclasses.replace(objective, noise_mask=lambda tokens, rng: mask)
    tokens = np.array([[A, B, C, D, E, F]], dtype=np.uint16)
    wrote, target = fixed.corrupt(tokens, rng=rng_of([0]), sentinels=SENTINELS)
    assert spell(target.ids) == rows["targets"]
    if rows["inputs"][:1] == ["shuffled:"]:
        assert sorted(spell(wrote.ids)) == rows["inputs"][1:]
    else:
        assert len(wrote.ids) == len(rows["inputs"])
        for found, drawn in zip(spell(wrote.ids), rows["inputs"], strict=True):
            assert found in drawn.split("|")


def spell(ids: np.ndarray) -> list[str]:
    names = dict(zip((A, B, C, D, E, F), TOKENS, strict=True))
    names |= {sentinel: f"<{number}>" for number, sentinel in enumerate(SENTINELS.tolist())}
    names |= dict.fromkeys(ORDINARY_IDS.tolist(), "?")
    return [names[token] for token in ids.tolist()]


def units_of(form_spans: bool) -> Units:
    return Units(starts=starts_by_id, form_spans=form_spans)


def starts_by_id(tokens: np.ndarray, rng: ExampleRng) -> np.ndarray:
    """Some two of three ids start a unit."""
    return tokens * 7919 % 31 < 20


ALL_UNITS = [None, units_of(True), units_of(False)]


WITH_UNITS = [(n, u) for n in OBJECTIVES for u in ALL_UNITS if not u or "units" in settings_of(n)]


@pytest.mark.parametrize(("name", "units"), WITH_UNITS)
@pytest.mark.parametrize("input_length", [8, 48, 512])
def test_no_token_is_lost_and_all_lengths_are_kept(name, units, input_length):
    for roll in (False, True) if name == "span_corruption" else (False,):
        for density in (0.15, 0.5):
            objective = make(
                name,
                input_length_tokens=input_length,
                units=units,
                noise_density=density,
                random_roll=roll,
            )
            longest = objective.raw_length_tokens
            for length in sorted({1, 2, 3, 7, longest // 2, longest}):
                if length <= longest:
                    check_windows(name, objective, length)


def check_windows(name, objective, length):
    num = 40
    tokens = np.arange(num)[:, None] * 1000 + np.arange(length) + 1000
    sentinels = np.arange(999, 999 - objective.num_sentinels, -1)  # not one more than promised
    inputs, targets = objective.corrupt(tokens, rng=rng_of(range(num)), sentinels=sentinels)
    assert inputs.lengths.max() + 1 <= objective.input_length_tokens
    assert targets.lengths.max() + 1 <= objective.target_length_tokens
    for row, wrote, target in zip(tokens.tolist(), inputs.split(), targets.split(), strict=True):
        said = sorted(t for t in [*wrote.tolist(), *target.tolist()] if t >= 1000)
        if name == "deshuffle":
            assert sorted(wrote.tolist()) == row and target.tolist() == row
        elif "style" in name or name == "iid_random":
            assert target.tolist() == row and len(wrote) == length
            changed = [new for new, old in zip(wrote.tolist(), row, strict=True) if new != old]
            assert set(changed) <= {999, *ORDINARY_IDS.tolist()}
        else:
            assert said == row


@pytest.mark.parametrize(("name", "inputs"), [("iid_denoising", 117), ("iid_drop", 84)])
def test_one_mask_in_a_thousand_is_limited_and_loses_no_token(name, inputs):
    objective = make(name, input_length_tokens=inputs)
    length = objective.raw_length_tokens
    tokens = np.tile(np.arange(length) + 1000, (20_000, 1))
    sentinels = np.arange(999, 999 - objective.num_sentinels, -1)
    inputs, targets = objective.corrupt(tokens, rng=rng_of(range(20_000)), sentinels=sentinels)
    assert targets.lengths.max() + 1 == objective.target_length_tokens  # the limit was met
    num_ids = np.count_nonzero(inputs.ids >= 1000) + np.count_nonzero(targets.ids >= 1000)
    assert num_ids == tokens.size


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_can_be_sent_to_a_worker(name):
    objective = make(name, input_length_tokens=32)
    copy = pickle.loads(pickle.dumps(objective))
    tokens = np.arange(31)[None] + 100
    for one, other in zip(
        objective.corrupt(tokens, rng=rng_of([5]), sentinels=SENTINELS),
        copy.corrupt(tokens, rng=rng_of([5]), sentinels=SENTINELS),
        strict=True,
    ):
        np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_written_is_a_function_of_the_example(name):
    objective = make(name, input_length_tokens=64)
    sentinels = np.arange(999, 899, -1)
    tokens = np.arange(3)[:, None] * 1000 + np.arange(objective.raw_length_tokens) + 1000
    inputs, targets = objective.corrupt(tokens, rng=rng_of([5, 6, 7]), sentinels=sentinels)
    for row, example in enumerate((5, 6, 7)):
        alone = objective.corrupt(tokens[row : row + 1], rng=rng_of([example]), sentinels=sentinels)
        np.testing.assert_array_equal(alone[0].ids, inputs.split()[row])
        np.testing.assert_array_equal(alone[1].ids, targets.split()[row])


def test_lengths_of_t5s_other_objectives():
    found = {}
    for name in OBJECTIVES:
        objective = make(name, input_length_tokens=512)
        found[name] = (objective.raw_length_tokens, objective.target_length_tokens)
    assert found["iid_denoising"] == (511, 192)  # gin objectives/iid_15_u_u
    assert found["iid_drop"] == (511, 104)  # gin objectives/iid_15_d_d
    assert found["span_corruption"] == (568, 114)
    others = {"mass_style", "bert_style", "iid_random", "deshuffle", "prefix_lm", "causal_lm"}
    assert {found[name] for name in others} == {(511, 512)}


def test_all_orders_are_equally_likely_when_shuffled():
    objective = make("deshuffle", input_length_tokens=5)
    tokens = np.tile([A, B, C, D], (12_000, 1))
    inputs, _ = objective.corrupt(tokens, rng=rng_of(range(12_000)), sentinels=SENTINELS)
    counts = Counter(map(tuple, inputs.ids.reshape(-1, 4).tolist()))
    assert len(counts) == 24 and chisquare(list(counts.values())).pvalue > 1e-3


def test_a_tenth_of_berts_hidden_tokens_are_random():
    objective = make("bert_style", input_length_tokens=512)
    tokens = np.full((400, 511), 20)
    inputs, _ = objective.corrupt(tokens, rng=rng_of(range(400)), sentinels=SENTINELS)
    counts = Counter(inputs.ids.tolist())
    hidden = 1 - counts[20] / tokens.size
    assert abs(hidden - 0.15) < 5 * math.sqrt(0.15 * 0.85 / tokens.size)
    random = [counts[int(i)] for i in ORDINARY_IDS]
    assert abs(sum(random) / (hidden * tokens.size) - 0.1) < 0.01
    assert chisquare(random).pvalue > 1e-3


def test_ragged_rows_in_parts():
    ragged = Ragged(ids=np.arange(6), lengths=np.array([1, 0, 3, 2]))
    parts = [[row.tolist() for row in part.split()] for part in ragged.parts([1, 2, 1])]
    assert parts == [[[0]], [[], [1, 2, 3]], [[4, 5]]]
    assert ragged.parts([4]) == [ragged]


def test_ragged_rows_get_ids_around_them():
    tokens = np.array([[A, B, C]])
    wrote = noise_spans_to_sentinels(tokens, np.array([[False, True, False]]), SENTINELS)
    assert wrote.between((7, 8), (9,)).split()[0].tolist() == [7, 8, A, 99, C, 9]
    assert wrote.between((), ()) is wrote


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 568])
def test_every_token_occurs_once_in_inputs_or_targets(length, roll):
    tokens = np.tile(np.arange(1000, 1000 + length), (20, 1))
    objective = span_corruption(
        input_length_tokens=512, noise_density=0.15, mean_noise_span_length=3.0, random_roll=roll
    )
    sentinels = np.arange(999, 899, -1)
    inputs, targets = objective.corrupt(tokens, rng=rng_of(range(20)), sentinels=sentinels)
    for wrote, target in zip(inputs.split(), targets.split(), strict=True):
        assert sorted(t for t in [*wrote, *target] if t >= 1000) == list(range(1000, 1000 + length))
        # Filling each sentinel of the inputs with what follows it in the targets gives the text.
        spans, current = {}, None
        for token in target.tolist():
            if token < 1000:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        filled = [t for w in wrote.tolist() for t in (spans[w] if w < 1000 else [w])]
        assert filled == list(range(1000, 1000 + length))


def test_all_masks_are_equally_likely():
    # 10 tokens, 5 hidden in 3 spans: C(4, 2) ways to cut the noise x C(4, 2) the rest = 36 masks.
    masks = random_spans_mask(
        10, rng_of(range(72_000)), noise_density=0.5, mean_noise_span_length=5 / 3
    )
    counts = Counter(map(bytes, masks))
    assert len(counts) == math.comb(4, 2) ** 2
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_each_position_is_hidden_as_often_as_in_t5s_own_algorithm():
    num = 20_000
    ours = random_spans_mask(
        568, rng_of(range(num)), noise_density=0.15, mean_noise_span_length=3.0
    )
    assert ours.sum(1).tolist() == [85] * num
    assert (ours[:, 1:] & ~ours[:, :-1]).sum(1).tolist() == [28] * num

    # T5: shuffle a row of "a segment starts here" flags, for the noise and for the rest.
    random = np.random.Generator(np.random.PCG64(0))

    def segment_lengths(total: int) -> np.ndarray:
        flags = np.tile(np.arange(total - 1) < 27, (num, 1))
        starts = np.pad(random.permuted(flags, axis=1), ((0, 0), (1, 0)))
        segment = starts.cumsum(1)
        return np.stack([(segment == k).sum(1) for k in range(28)], axis=1)

    lengths = np.stack([segment_lengths(483), segment_lengths(85)], axis=2).reshape(num, 56)
    reference = np.repeat(np.tile([False, True], num * 28), lengths.ravel()).reshape(num, 568)
    error = ours.mean(0) - reference.mean(0)
    assert np.abs(error).max() < 5 * math.sqrt(2 * 0.15 * 0.85 / num)
    assert abs(error.mean()) < 1e-12


def test_rolled_masks_hide_every_position_alike():
    masks = random_spans_mask(
        20, rng_of(range(40_000)), noise_density=0.3, mean_noise_span_length=3.0, random_roll=True
    )
    hidden = masks.sum(0)
    assert chisquare(hidden).pvalue > 1e-3


def test_a_mask_is_a_function_of_seed_epoch_and_example():
    settings = {"noise_density": 0.15, "mean_noise_span_length": 3.0, "random_roll": True}
    together = random_spans_mask(100, rng_of([5, 6, 7]), **settings)
    alone = np.concatenate([random_spans_mask(100, rng_of([i]), **settings) for i in (5, 6, 7)])
    np.testing.assert_array_equal(together, alone)
    for other in (rng_of([5, 6, 7], seed=2), rng_of([5, 6, 7], epochs=1), rng_of([6, 7, 8])):
        assert (random_spans_mask(100, other, **settings) != together).any(axis=1).all()


def test_no_global_generator_is_touched():
    before = np.random.get_state()[1].copy()
    random_spans_mask(100, rng_of(range(4)), noise_density=0.15, mean_noise_span_length=3.0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_streams_of_neighbouring_examples_are_independent():
    words = rng_of(range(1000)).uint32(64)
    bits = np.unpackbits(words.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.002
    correlation = np.corrcoef(words[:-1].ravel().astype(float), words[1:].ravel().astype(float))
    assert abs(correlation[0, 1]) < 0.02


if __name__ == "__main__":
    absltest.main()
