"""Denoising objectives: raw token ids in, (inputs, targets) out.

An objective is a noise mask x a way to write inputs x a way to write targets. Each of the three is
a pure function over a whole batch of equally long examples; randomness arrives as `rng`, which
gives every example its own numbers as a function of (seed, epoch, example) and nothing else.

      tokens   a  b  c  d  e  f
      mask     .  .  #  .  #  #          noise_mask
      inputs   a  b <0> d <1>            write_inputs    (EOS is added by the collator)
      targets <0> c <1> e  f             write_targets

A new objective is one function here and one line in OBJECTIVES. Masks are in noise_masks.py, units
that may only be hidden as a whole in masking_units.py, several objectives in one run in
objective_mixtures.py.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from errors import UserError
from masking_units import Units
from noise_masks import (
    MOST_EXTRA_TOKENS,
    ExampleRng,
    drawn_units_mask,
    independent_mask,
    limited,
    most_likely_cost,
    noise_counts,
    random_spans_mask,
    span_starts,
    suffix_mask,
    unit_spans_mask,
)

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

    def parts(self, sizes: Sequence[int]) -> list[Ragged]:
        """The first so many rows, the next so many, ..."""
        if len(sizes) == 1:
            return [self]
        rows = np.cumsum(sizes)
        ids = np.split(self.ids, np.cumsum(self.lengths)[rows - 1][:-1])
        lengths = np.split(self.lengths, rows[:-1])
        return [Ragged(*part) for part in zip(ids, lengths, strict=True)]

    def between(self, first: Sequence[int], last: Sequence[int]) -> Ragged:
        """Every row with the ids `first` before it and `last` behind it."""
        if not len(first) and not len(last):
            return self
        ends = np.cumsum(self.lengths)
        where = np.concatenate(
            [np.repeat(ends - self.lengths, len(first)), np.repeat(ends, len(last))]
        )
        added = np.concatenate([np.tile(first, len(ends)), np.tile(last, len(ends))])
        return Ragged(
            ids=np.insert(self.ids, where, added),
            lengths=self.lengths + len(first) + len(last),
        )

    def pad(self, *, width: int, fill: int, end: int) -> np.ndarray:
        """[batch, width] int64: each row, the id `end`, then `fill`."""
        batch = len(self.lengths)
        out = np.full((batch, width), fill, dtype=np.int64)
        if np.all(self.lengths == self.lengths[0]):
            out[:, : self.lengths[0]] = self.ids.reshape(batch, self.lengths[0])
        else:
            out[np.arange(width) < self.lengths[:, None]] = self.ids
        out[np.arange(batch), self.lengths] = end
        return out


def _replace_run_starts(
    tokens: np.ndarray, *, runs: np.ndarray, keep_rest: np.ndarray, sentinels: np.ndarray
) -> Ragged:
    """Each run of `runs` becomes one sentinel, numbered from the left; `keep_rest` stays."""
    starts = span_starts(runs)
    places = np.flatnonzero(starts)
    first_run = np.searchsorted(places, np.arange(len(runs) + 1) * runs.shape[1])
    runs_per_row = np.diff(first_run)
    most = int(runs_per_row.max(initial=0))
    if most > len(sentinels):
        raise UserError(
            f"An example needs {most} sentinel tokens (<extra_id_0>, ...), but the tokenizer has "
            f"{len(sentinels)}. Use a shorter --input_seq_length, a smaller --mlm_probability, a "
            "longer --mean_noise_span_length, or a tokenizer with more sentinels."
        )
    written = tokens.copy()
    numbers = np.arange(len(places)) - np.repeat(first_run[:-1], runs_per_row)
    written.reshape(-1)[places] = sentinels[numbers]
    kept = keep_rest | starts
    return Ragged(ids=written[kept], lengths=np.count_nonzero(kept, axis=1))


def noise_spans_to_sentinels(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
) -> Ragged:
    """Inputs with each hidden span replaced by its own sentinel.

        a b c d e f  with  . . # . # #   ->   a b <0> d <1>

    Source: T5, `noise_span_to_unique_sentinel`, t5/data/preprocessors.py.
    """
    return _replace_run_starts(tokens, runs=mask, keep_rest=~mask, sentinels=sentinels)


def sentinels_then_noise_spans(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
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


def visible_tokens(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
) -> Ragged:
    """What is not hidden, without a sign of what was:  a b c d e f  ->  a b d"""
    return Ragged(ids=tokens[~mask], lengths=np.count_nonzero(~mask, axis=1))


def hidden_tokens(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
) -> Ragged:
    """What is hidden, end to end:  a b c d e f  ->  c e f"""
    return Ragged(ids=tokens[mask], lengths=np.count_nonzero(mask, axis=1))


def visible_tokens_then_sentinel(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
) -> Ragged:
    """What is not hidden, and <0> to be continued:  a b c d e f  ->  a b d <0>

    UL2's sequential denoiser prompts with it (model card of google/ul2).
    """
    return visible_tokens(tokens, mask, sentinels).between((), sentinels[:1])


def whole_text(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng | None = None
) -> Ragged:
    """Everything as it was:  a b c d e f"""
    return Ragged(ids=tokens.ravel(), lengths=np.full(len(tokens), tokens.shape[1]))


def shuffled_tokens(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, rng: ExampleRng
) -> Ragged:
    """All tokens in a random order, each equally likely:  a b c d e f  ->  d a f b e c

    Source: T5, `permute_noise_tokens` at density 1 (gin objectives/all_permute).
    """
    order = rng.permutations(tokens.shape[1])
    return whole_text(np.take_along_axis(tokens, order, axis=1), mask, sentinels)


def noise_tokens_to_sentinel_or_random(
    tokens: np.ndarray,
    mask: np.ndarray,
    sentinels: np.ndarray,
    rng: ExampleRng,
    *,
    random_share: float,
    ordinary_ids: np.ndarray | None,
) -> Ragged:
    """Each hidden token replaced in its place: by <0>, or by a random token with `random_share`.

        a b c d e f  with  . . # . # #   ->   a b <0> d <0> <0>      random_share 0
                                              a b  x  d  y   z       random_share 1

    Random tokens come from `ordinary_ids`, each equally likely; T5 draws from all ids but the first
    three, sentinels included. Source: T5, `noise_token_to_random_token_or_sentinel`.
    """
    written = np.where(mask, sentinels[0].astype(tokens.dtype), tokens)
    if random_share > 0:
        drawn = rng.uint32(tokens.shape[1]).astype(np.uint64) * np.uint64(len(ordinary_ids))
        words = ordinary_ids[(drawn >> np.uint64(32)).astype(np.int64)]
        at_random = mask & rng.happens(random_share, width=tokens.shape[1])
        written[at_random] = words[at_random]
    return whole_text(written, mask, sentinels)


# ---- objectives ---------------------------------------------------------------------------------

NoiseMask = Callable[[np.ndarray, ExampleRng], np.ndarray]
Writer = Callable[[np.ndarray, np.ndarray, np.ndarray, ExampleRng], Ragged]


@dataclass(frozen=True)
class Objective:
    """How raw windows of `raw_length_tokens` become inputs and targets, EOS counted in both.

    No window of that length or shorter needs more than `input_length_tokens`,
    `target_length_tokens` or `num_sentinels`. `mode_ids` come before all inputs.
    """

    noise_mask: NoiseMask
    write_inputs: Writer
    write_targets: Writer
    raw_length_tokens: int
    input_length_tokens: int
    target_length_tokens: int
    num_sentinels: int
    mode_ids: tuple[int, ...] = ()

    def corrupt(
        self, tokens: np.ndarray, *, rng: ExampleRng, sentinels: np.ndarray
    ) -> tuple[Ragged, Ragged]:
        """(inputs, targets) without EOS of equally long examples, `tokens` [batch, length]."""
        mask = self.noise_mask(tokens, rng)
        inputs = self.write_inputs(tokens, mask, sentinels, rng)
        return inputs.between(self.mode_ids, ()), self.write_targets(tokens, mask, sentinels, rng)


# Noise masks as functions of the tokens: worker processes that are spawned must pickle them.


def _free_spans(tokens: np.ndarray, rng: ExampleRng, **settings) -> np.ndarray:
    return random_spans_mask(tokens.shape[1], rng, **settings)


def _spans_of_units(tokens: np.ndarray, rng: ExampleRng, *, units: Units, **settings) -> np.ndarray:
    return unit_spans_mask(units.starts(tokens, rng), rng, **settings)


def _drawn_units(
    tokens: np.ndarray, rng: ExampleRng, *, units: Units, noise_density: float
) -> np.ndarray:
    return drawn_units_mask(units.starts(tokens, rng), rng, noise_density=noise_density)


def _single_tokens(
    tokens: np.ndarray,
    rng: ExampleRng,
    *,
    noise_density: float,
    limits: dict[tuple[int, int], int],
) -> np.ndarray:
    mask = independent_mask(tokens.shape[1], rng, noise_density=noise_density)
    for (token_cost, span_cost), most in limits.items():
        mask = limited(mask, most=most, token_cost=token_cost, span_cost=span_cost)
    return mask


def _suffix(tokens: np.ndarray, rng: ExampleRng, *, suffix_share: float | None) -> np.ndarray:
    return suffix_mask(tokens.shape[1], rng, suffix_share=suffix_share)


def _everything(tokens: np.ndarray, rng: ExampleRng) -> np.ndarray:
    return np.ones(tokens.shape, dtype=bool)


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
    random_roll: bool = False,
    units: Units | None = None,
    raw_length_tokens: int | None = None,
) -> Objective:
    """T5's objective. A rolled mask may cut one span in two, so its window leaves room for that.

    With units that form spans, targets leave room for MOST_EXTRA_TOKENS; units that do not are
    drawn one by one, as in `iid_denoising`.
    """
    if units is not None and not units.form_spans:
        return iid_denoising(
            input_length_tokens=input_length_tokens,
            noise_density=noise_density,
            units=units,
            raw_length_tokens=raw_length_tokens,
        )
    settings = {"noise_density": noise_density, "mean_noise_span_length": mean_noise_span_length}
    spare = 1 if random_roll else 0
    raw, targets = span_corruption_lengths(
        input_length_tokens, **settings, num_spare_sentinels=spare
    )
    if raw_length_tokens is not None:
        raw, targets = raw_length_tokens, 0
    num_noise, num_spans = noise_counts(raw, **settings)
    if raw - num_noise + num_spans + spare + 1 > input_length_tokens:
        # T5's lengths round less than half a span to none, its mask always hides one.
        raw -= 1
        num_noise, num_spans = noise_counts(raw, **settings)
    num_sentinels = num_spans + 2 * spare  # a span cut in two, and one that closes the targets
    targets = max(targets, num_noise + num_sentinels + 1)
    settings["random_roll"] = random_roll
    return Objective(
        noise_mask=functools.partial(_free_spans, **settings)
        if units is None
        else functools.partial(_spans_of_units, units=units, **settings),
        write_inputs=noise_spans_to_sentinels,
        write_targets=sentinels_then_noise_spans,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=targets if units is None else targets + MOST_EXTRA_TOKENS,
        num_sentinels=num_sentinels,
    )


def _next_multiple(length_tokens: int, *, of: int = 8) -> int:
    """Matrix units take rows of 8; T5's 104 and 192 target tokens are such multiples, too."""
    return -(-length_tokens // of) * of


def _scattered(
    raw: int, *, noise_density: float, units: Units | None, span_cost: int
) -> tuple[NoiseMask, int, int]:
    """(noise mask of single tokens or units, target length, most spans), where a target holds the
    hidden tokens, `span_cost` sentinels per span and as many at the end, and EOS.

    The number of independent tokens has no bound worth its padding: targets have room for 99.9 %
    of all masks. In the others, what is too much at the end stays visible, and nothing is lost.
    """
    num_ends = span_cost + 1
    if units is not None:
        num_noise, _ = noise_counts(raw, noise_density=noise_density, mean_noise_span_length=1.0)
        most_spans = min(num_noise, raw - num_noise + 1)
        mask = functools.partial(_drawn_units, units=units, noise_density=noise_density)
        return mask, _next_multiple(num_noise + most_spans * span_cost + num_ends), most_spans
    likely = functools.partial(most_likely_cost, raw, noise_density=noise_density)
    most_spans = likely(token_cost=0, span_cost=1) if span_cost else raw
    targets = _next_multiple(likely(token_cost=1, span_cost=span_cost) + num_ends)
    limits = {(0, 1): most_spans, (1, span_cost): targets - num_ends}
    mask = functools.partial(_single_tokens, noise_density=noise_density, limits=limits)
    return mask, targets, most_spans


def iid_denoising(
    *,
    input_length_tokens: int,
    noise_density: float,
    units: Units | None = None,
    raw_length_tokens: int | None = None,
) -> Objective:
    """Single tokens hidden independently, each run of them behind its own sentinel (T5's first
    objective, `iid_15_u_u`): 512 -> 511 raw tokens, 192 targets at density .15.
    """
    raw = raw_length_tokens or input_length_tokens - 1
    noise_mask, targets, most_spans = _scattered(
        raw, noise_density=noise_density, units=units, span_cost=1
    )
    return Objective(
        noise_mask=noise_mask,
        write_inputs=noise_spans_to_sentinels,
        write_targets=sentinels_then_noise_spans,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=targets,
        num_sentinels=most_spans + 1,
    )


def iid_drop(
    *,
    input_length_tokens: int,
    noise_density: float,
    units: Units | None = None,
    raw_length_tokens: int | None = None,
) -> Objective:
    """Hidden tokens dropped without a trace, targets are just them (T5's `iid_15_d_d`): 512 -> 511
    raw tokens, 104 targets at density .15.
    """
    raw = raw_length_tokens or input_length_tokens - 1
    noise_mask, targets, _ = _scattered(raw, noise_density=noise_density, units=units, span_cost=0)
    return Objective(
        noise_mask=noise_mask,
        write_inputs=visible_tokens,
        write_targets=hidden_tokens,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=targets,
        num_sentinels=0,
    )


def replaced_in_place(
    *,
    random_share: float,
    input_length_tokens: int,
    noise_density: float,
    ordinary_ids: np.ndarray | None = None,
    units: Units | None = None,
    raw_length_tokens: int | None = None,
) -> Objective:
    """Hidden tokens replaced one by one, the whole text as target: T5's `iid_15_m_f` (MASS-style,
    only sentinels), `iid_15_r10s90_f` (BERT-style, a tenth random tokens), or only random tokens.
    """
    raw = raw_length_tokens or input_length_tokens - 1
    if units is None:
        noise_mask = functools.partial(_single_tokens, noise_density=noise_density, limits={})
    else:
        noise_mask = functools.partial(_drawn_units, units=units, noise_density=noise_density)
    write_inputs = functools.partial(
        noise_tokens_to_sentinel_or_random, random_share=random_share, ordinary_ids=ordinary_ids
    )
    return Objective(
        noise_mask=noise_mask,
        write_inputs=write_inputs,
        write_targets=whole_text,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=raw + 1,
        num_sentinels=1,
    )


def deshuffle(*, input_length_tokens: int, raw_length_tokens: int | None = None) -> Objective:
    """All tokens in random order, to be put in order (T5's `all_permute`)."""
    raw = raw_length_tokens or input_length_tokens - 1
    return Objective(
        noise_mask=_everything,
        write_inputs=shuffled_tokens,
        write_targets=whole_text,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=raw + 1,
        num_sentinels=0,
    )


def prefix_lm(
    *,
    input_length_tokens: int,
    suffix_share: float | None = None,
    closing_sentinel: bool = False,
    raw_length_tokens: int | None = None,
) -> Objective:
    """The beginning of a text, to be continued (T5's `prefix_lm`): any prefix is equally likely, or
    the last `suffix_share` is always the target. `closing_sentinel` ends the inputs with <0>.
    """
    spare = 1 if closing_sentinel else 0
    raw = raw_length_tokens or input_length_tokens - 1 - spare
    if suffix_share is not None and raw_length_tokens is None:
        while raw + 1 - round((raw + 1) * suffix_share) + spare + 1 <= input_length_tokens:
            raw += 1
    num_hidden = raw - 1 if suffix_share is None else round(raw * suffix_share)
    targets = max(num_hidden, 1) + 1
    return Objective(
        noise_mask=functools.partial(_suffix, suffix_share=suffix_share),
        write_inputs=visible_tokens_then_sentinel if closing_sentinel else visible_tokens,
        write_targets=hidden_tokens,
        raw_length_tokens=raw,
        input_length_tokens=input_length_tokens,
        target_length_tokens=targets if suffix_share is not None else _next_multiple(targets),
        num_sentinels=spare,
    )


def causal_lm(*, input_length_tokens: int, raw_length_tokens: int | None = None) -> Objective:
    """The text itself; the encoder sees EOS alone (T5's `lm`)."""
    raw = raw_length_tokens or input_length_tokens - 1
    return Objective(
        noise_mask=_everything,
        write_inputs=visible_tokens,
        write_targets=hidden_tokens,
        raw_length_tokens=raw,
        input_length_tokens=1,
        target_length_tokens=raw + 1,
        num_sentinels=0,
    )


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "span_corruption": span_corruption,
    "iid_denoising": iid_denoising,
    "iid_drop": iid_drop,
    "iid_random": functools.partial(replaced_in_place, random_share=1.0),
    "mass_style": functools.partial(replaced_in_place, random_share=0.0),
    "bert_style": functools.partial(replaced_in_place, random_share=0.1),
    "deshuffle": deshuffle,
    "prefix_lm": prefix_lm,
    "causal_lm": causal_lm,
}


def settings_of(name: str) -> list[str]:
    """The names of the settings that an objective takes."""
    return list(inspect.signature(OBJECTIVES[name]).parameters)
