"""Denoising objectives: raw token ids in, (inputs, targets) out.

An objective is a noise mask x a way to write inputs x a way to write targets. Each of the three is
a pure function over a whole batch of equally long examples; randomness arrives as `rng`, which
gives every example its own numbers as a function of (seed, epoch, example) and nothing else.

      tokens   a  b  c  d  e  f
      mask     .  .  #  .  #  #          noise_mask
      inputs   a  b <0> d <1>            write_inputs    (EOS is added by the collator)
      targets <0> c <1> e  f             write_targets

A new objective is one function here and one line in OBJECTIVES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from errors import UserError

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014, variant 13 of Stafford's mixers)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class ExampleRng:
    """Random numbers for each example of a batch, a pure function of (seed, epoch, example).

    Every example owns one SplitMix64 stream, so the same example draws the same numbers in any
    batch, on any rank, in any worker, before and after a restart. Successive draws continue the
    streams.
    """

    def __init__(self, *, seed: int, epochs: np.ndarray, examples: np.ndarray):
        keys = np.full(len(examples), seed, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for part in (epochs, examples):
                keys = _mix((keys ^ np.asarray(part).astype(np.uint64)) + _GOLDEN_GAMMA)
        self._keys = keys
        self._num_drawn = 0

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, chosen: np.ndarray) -> ExampleRng:
        """The same streams for some of the examples; `chosen` holds row numbers."""
        part = object.__new__(ExampleRng)
        part._keys = self._keys[chosen]
        part._num_drawn = self._num_drawn
        return part

    def uint32(self, width: int) -> np.ndarray:
        """Uniform 32-bit numbers, [batch, width]."""
        num_words = (width + 1) // 2
        first = self._num_drawn + 1
        self._num_drawn += num_words
        counters = np.arange(first, first + num_words, dtype=np.uint64)
        with np.errstate(over="ignore"):
            words = _mix(self._keys[:, None] + counters * _GOLDEN_GAMMA)
        return words.view(np.uint32)[:, :width]

    def below(self, bound: int) -> np.ndarray:
        """One uniform integer in [0, bound) per example, [batch] (bias under bound / 2**32)."""
        return (self.uint32(1)[:, 0].astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)


# ---- noise masks: which tokens are hidden -------------------------------------------------------


def noise_counts(
    length: int, *, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """(noise tokens, noise spans) of one example of `length` tokens.

    Source: T5, `random_spans_noise_mask`, t5/data/preprocessors.py. Python's round, like T5's,
    rounds halves to even.
    """
    length = max(length, 2)
    num_noise_tokens = min(max(round(length * noise_density), 1), length - 1)
    num_noise_spans = max(1, round(num_noise_tokens / mean_noise_span_length))
    return num_noise_tokens, min(num_noise_spans, num_noise_tokens, length - num_noise_tokens)


def _random_composition(total: int, parts: int, rng: ExampleRng) -> np.ndarray:
    """Lengths of `parts` non-empty segments that sum to `total`, every split equally likely.

    Shape [batch, parts]. The parts - 1 cuts are the columns of the smallest random keys; the low
    bits of a key carry its column, so one sort of plain integers finds them without an argsort.
    """
    num_gaps = total - 1
    column_bits = np.uint32((1 << max(num_gaps, 1).bit_length()) - 1)
    keys = rng.uint32(num_gaps) & ~column_bits | np.arange(num_gaps, dtype=np.uint32)
    keys.sort(axis=1)
    cuts = np.empty((len(rng), parts + 1), dtype=np.int32)
    cuts[:, 0] = 0
    cuts[:, -1] = total
    cuts[:, 1:-1] = (keys[:, : parts - 1] & column_bits) + 1
    cuts[:, 1:-1].sort(axis=1)
    return np.diff(cuts, axis=1)


def random_spans_mask(
    length: int,
    rng: ExampleRng,
    *,
    noise_density: float,
    mean_noise_span_length: float,
    random_roll: bool = False,
) -> np.ndarray:
    """T5's noise mask, [batch, length], True where a token is hidden.

    Non-noise and noise spans alternate, non-noise first, so the first token is never hidden and
    the last one always is (t5 issue #905); `random_roll` turns the mask by a uniform offset.

        length 6, 3 noise tokens in 2 spans:   . # . . # #

    Source: T5, `random_spans_noise_mask`, t5/data/preprocessors.py.
    """
    if length < 2:
        return np.zeros((len(rng), length), dtype=bool)
    num_noise, num_spans = noise_counts(
        length, noise_density=noise_density, mean_noise_span_length=mean_noise_span_length
    )
    span_lengths = np.empty((len(rng), 2 * num_spans), dtype=np.int32)
    span_lengths[:, 1::2] = _random_composition(num_noise, num_spans, rng)
    span_lengths[:, 0::2] = _random_composition(length - num_noise, num_spans, rng)
    hidden = np.tile([False, True], len(rng) * num_spans)
    mask = np.repeat(hidden, span_lengths.ravel()).reshape(len(rng), length)
    return _roll_rows(mask, rng.below(length)) if random_roll else mask


def _roll_rows(mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each row turned right by its own offset."""
    columns = np.arange(mask.shape[1]) - offsets.astype(np.int64)[:, None]
    return np.take_along_axis(mask, columns % mask.shape[1], axis=1)


# ---- writing inputs and targets -----------------------------------------------------------------


@dataclass(frozen=True)
class Ragged:
    """Rows of different length: `ids` holds them end to end, `lengths` is [batch]."""

    ids: np.ndarray
    lengths: np.ndarray

    def split(self) -> list[np.ndarray]:
        """The rows, one array each."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])

    @staticmethod
    def join(rows: list[np.ndarray]) -> Ragged:
        """The inverse of `split`."""
        return Ragged(ids=np.concatenate(rows), lengths=np.array([len(row) for row in rows]))

    def pad(self, *, width: int, fill: int, end: int) -> np.ndarray:
        """[batch, width] int64: each row, the id `end`, then `fill`."""
        batch = len(self.lengths)
        out = np.full((batch, width), fill, dtype=np.int64)
        if np.all(self.lengths == self.lengths[0]):
            out[:, : self.lengths[0]] = self.ids.reshape(batch, -1)
        else:
            out[np.arange(width) < self.lengths[:, None]] = self.ids
        out[np.arange(batch), self.lengths] = end
        return out


def _replace_run_starts(
    tokens: np.ndarray, *, runs: np.ndarray, keep_rest: np.ndarray, sentinels: np.ndarray
) -> Ragged:
    """Each run of `runs` becomes one sentinel, numbered from the left; `keep_rest` stays."""
    starts = runs.copy()
    np.greater(runs[:, 1:], runs[:, :-1], out=starts[:, 1:])
    runs_per_row = np.count_nonzero(starts, axis=1)
    most = int(runs_per_row.max(initial=0))
    if most > len(sentinels):
        raise UserError(
            f"An example needs {most} sentinel tokens (<extra_id_0>, ...), but the tokenizer has "
            f"{len(sentinels)}. Use a shorter --input_seq_length, a smaller --mlm_probability, a "
            "longer --mean_noise_span_length, or a tokenizer with more sentinels."
        )
    written = tokens.copy()
    first_run = np.repeat(np.cumsum(runs_per_row) - runs_per_row, runs_per_row)
    written[starts] = sentinels[np.arange(len(first_run)) - first_run]
    kept = keep_rest | starts
    return Ragged(ids=written[kept], lengths=np.count_nonzero(kept, axis=1))


def noise_spans_to_sentinels(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray) -> Ragged:
    """Inputs with each hidden span replaced by its own sentinel.

        a b c d e f  with  . . # . # #   ->   a b <0> d <1>

    Source: T5, `noise_span_to_unique_sentinel`, t5/data/preprocessors.py.
    """
    return _replace_run_starts(tokens, runs=mask, keep_rest=~mask, sentinels=sentinels)


def sentinels_then_noise_spans(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray
) -> Ragged:
    """Targets: each hidden span behind the sentinel that stands for it in the inputs.

        a b c d e f  with  . . # . # #   ->   <0> c <1> e f
        a b c d e f  with  # # . . # .   ->   <0> a b <1> e <2>

    Equal to T5's `nonnoise_span_to_unique_sentinel` wherever the text starts with a token that is
    kept, the closing sentinel after a kept ending included. Where it starts with a hidden one
    (rolled masks), T5 numbers targets and inputs differently; here an empty kept run is put in
    front, so that a sentinel means the same span on both sides.
    """
    if not mask[:, :1].any():
        return _replace_run_starts(tokens, runs=~mask, keep_rest=mask, sentinels=sentinels)
    batch, length = tokens.shape
    tokens_after_edge = np.empty((batch, length + 1), dtype=tokens.dtype)
    tokens_after_edge[:, 0] = 0
    tokens_after_edge[:, 1:] = tokens
    mask_after_edge = np.zeros((batch, length + 1), dtype=bool)
    mask_after_edge[:, 1:] = mask
    return _replace_run_starts(
        tokens_after_edge, runs=~mask_after_edge, keep_rest=mask_after_edge, sentinels=sentinels
    )


# ---- objectives ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """How raw windows of `raw_length_tokens` become inputs and targets, EOS counted in both."""

    noise_mask: Callable[[int, ExampleRng], np.ndarray]
    write_inputs: Callable[[np.ndarray, np.ndarray, np.ndarray], Ragged]
    write_targets: Callable[[np.ndarray, np.ndarray, np.ndarray], Ragged]
    raw_length_tokens: int
    input_length_tokens: int
    target_length_tokens: int
    num_sentinels: int

    def corrupt(
        self, tokens: np.ndarray, *, rng: ExampleRng, sentinels: np.ndarray
    ) -> tuple[Ragged, Ragged]:
        """(inputs, targets) without EOS of equally long examples, `tokens` [batch, length]."""
        mask = self.noise_mask(tokens.shape[1], rng)
        return (
            self.write_inputs(tokens, mask, sentinels),
            self.write_targets(tokens, mask, sentinels),
        )


def span_corruption_lengths(
    input_length_tokens: int,
    *,
    noise_density: float,
    mean_noise_span_length: float,
    num_spare_sentinels: int = 0,
) -> tuple[int, int]:
    """(raw tokens, target tokens) of a window whose corrupted inputs just fill the input length.

    Inputs and targets each end in EOS: 512 -> (568, 114) at density .15 and mean span 3.
    Source: T5, `random_spans_helper`, t5/data/preprocessors.py.
    """

    def lengths(raw: int) -> tuple[int, int]:
        noise = round(raw * noise_density)
        spans = round(noise / mean_noise_span_length) + num_spare_sentinels
        return raw - noise + spans + 1, noise + spans + 1

    raw = input_length_tokens - 1 - num_spare_sentinels
    while lengths(raw + 1)[0] <= input_length_tokens:
        raw += 1
    inputs, targets = lengths(raw)
    if noise_density == 0.5 and targets > inputs:
        raw -= 1
        targets -= 1
    return raw, targets


def span_corruption(
    *,
    input_length_tokens: int,
    noise_density: float,
    mean_noise_span_length: float,
    random_roll: bool,
) -> Objective:
    """T5's objective. A rolled mask may cut one span in two, so its window leaves room for that."""
    raw, targets = span_corruption_lengths(
        input_length_tokens,
        noise_density=noise_density,
        mean_noise_span_length=mean_noise_span_length,
        num_spare_sentinels=1 if random_roll else 0,
    )
    _, num_spans = noise_counts(
        raw, noise_density=noise_density, mean_noise_span_length=mean_noise_span_length
    )

    def noise_mask(length: int, rng: ExampleRng) -> np.ndarray:
        return random_spans_mask(
            length,
            rng,
            noise_density=noise_density,
            mean_noise_span_length=mean_noise_span_length,
            random_roll=random_roll,
        )

    return Objective(
        noise_mask=noise_mask,
        write_inputs=noise_spans_to_sentinels,
        write_targets=sentinels_then_noise_spans,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=targets + (1 if random_roll else 0),
        num_sentinels=num_spans + (2 if random_roll else 0),
    )


OBJECTIVES: dict[str, Callable[..., Objective]] = {"span_corruption": span_corruption}
