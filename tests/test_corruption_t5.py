"""Proves that span corruption is T5's: its lengths, its texts, its uniform masks, its sentinels;
and that a mask depends on (seed, epoch, example) and on nothing else."""

import math
from collections import Counter

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy.stats import chisquare

from corruption_t5 import (
    ExampleRng,
    noise_counts,
    noise_spans_to_sentinels,
    random_spans_mask,
    sentinels_then_noise_spans,
    span_corruption,
    span_corruption_lengths,
)
from errors import UserError

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
