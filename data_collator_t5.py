"""From examples to batches: tensors of shape [batch, length] that T5's forward takes as they are.

Every batch holds `labels`, which end in EOS and are filled with -100, `decoder_input_ids`, which
are the labels one step later, and `example_index`, by which scores are put back in order. An
`attention_mask` is there only if something is padded: a full batch needs none. `objective_index`
is there for mixtures: the number of each example's component.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from constants import IGNORE_ID
from corruption_t5 import ExampleRng, Objective, Ragged
from objective_mixtures import Mixture


class WindowBatch(NamedTuple):
    """Raw windows of a corpus with the (epoch, example) their masks are drawn from.

    Windows of one length come as one array [batch, length].
    """

    windows: Sequence[np.ndarray] | np.ndarray
    epochs: np.ndarray
    examples: np.ndarray


def _shift_right(labels: np.ndarray, *, start_id: int, pad_id: int) -> np.ndarray:
    """Decoder inputs [batch, length]: the start id, then the labels without their last column.

    labels  a b </s> -100   ->   <pad> a b </s>
    """
    shifted = np.empty_like(labels)
    shifted[:, 0] = start_id
    shifted[:, 1:] = labels[:, :-1]
    shifted[shifted == IGNORE_ID] = pad_id
    return shifted


def _to_tensors(
    *,
    input_ids: np.ndarray,
    input_lengths: np.ndarray,
    labels: np.ndarray,
    examples: np.ndarray,
    start_id: int,
    pad_id: int,
    **columns: np.ndarray,
) -> dict[str, torch.Tensor]:
    batch = {
        "input_ids": input_ids,
        "labels": labels,
        "decoder_input_ids": _shift_right(labels, start_id=start_id, pad_id=pad_id),
        "example_index": np.asarray(examples, dtype=np.int64),
        **columns,
    }
    width = input_ids.shape[1]
    if np.any(input_lengths < width):
        batch["attention_mask"] = (np.arange(width) < input_lengths[:, None]).astype(np.int64)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


class PreTrainingCollator:
    """Corrupts raw windows by an objective and stacks them.

    `sentinels` are the ids of <extra_id_0>, <extra_id_1>, ... in this order. The result does not
    depend on which examples share a batch, except for padding when windows differ in length.
    """

    def __init__(
        self,
        *,
        objective: Objective | Mixture,
        sentinels: Sequence[int],
        pad_id: int,
        eos_id: int,
        start_id: int,
        seed: int,
    ):
        self.objective = objective
        self.sentinels = np.asarray(sentinels)
        self.pad_id = pad_id
        self.eos_id = eos_id
        self.start_id = start_id
        self.seed = seed

    def __call__(self, batch: WindowBatch) -> dict[str, torch.Tensor]:
        return self.several(batch, sizes=[len(batch.examples)])[0]

    def several(self, batch: WindowBatch, *, sizes: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Batches of so many windows each, as if each were collated by itself, in less time."""
        rng = ExampleRng(seed=self.seed, epochs=batch.epochs, examples=batch.examples)
        windows = batch.windows
        if isinstance(windows, np.ndarray) or len({len(window) for window in windows}) == 1:
            inputs, targets = self._corrupt(np.asarray(windows), rng)
        else:
            inputs, targets = self._corrupt_by_length(windows, rng)
        columns = {"examples": batch.examples}
        if isinstance(self.objective, Mixture):
            first_draws = ExampleRng(seed=self.seed, epochs=batch.epochs, examples=batch.examples)
            columns["objective_index"] = self.objective.choose(first_draws)
        pairs = zip(inputs.parts(sizes), targets.parts(sizes), strict=True)
        bounds = itertools.pairwise([0, *itertools.accumulate(sizes)])
        return [
            self._pad(*pair, **{name: column[slice(*rows)] for name, column in columns.items()})
            for pair, rows in zip(pairs, bounds, strict=True)
        ]

    def _pad(self, inputs: Ragged, targets: Ragged, **columns) -> dict[str, torch.Tensor]:
        input_width = max(self.objective.input_length_tokens, int(inputs.lengths.max()) + 1)
        target_width = max(self.objective.target_length_tokens, int(targets.lengths.max()) + 1)
        return _to_tensors(
            input_ids=inputs.pad(width=input_width, fill=self.pad_id, end=self.eos_id),
            input_lengths=inputs.lengths + 1,
            labels=targets.pad(width=target_width, fill=IGNORE_ID, end=self.eos_id),
            start_id=self.start_id,
            pad_id=self.pad_id,
            **columns,
        )

    def _corrupt(self, tokens: np.ndarray, rng: ExampleRng) -> tuple[Ragged, Ragged]:
        return self.objective.corrupt(tokens, rng=rng, sentinels=self.sentinels)

    def _corrupt_by_length(
        self, windows: Sequence[np.ndarray], rng: ExampleRng
    ) -> tuple[Ragged, Ragged]:
        """The objective applied to each group of equal length, results in the windows' order."""
        lengths = np.array([len(window) for window in windows])
        pairs: list = [None] * len(windows)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            tokens = np.stack([windows[row] for row in rows])
            inputs, targets = self._corrupt(tokens, rng.rows(rows))
            pairs_of_group = zip(inputs.split(), targets.split(), strict=True)
            for row, pair in zip(rows, pairs_of_group, strict=True):
                pairs[row] = pair
        return Ragged.join([pair[0] for pair in pairs]), Ragged.join([pair[1] for pair in pairs])


def padding_shares(batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """(share of the inputs, share of the targets) that is padding."""
    mask = batch.get("attention_mask")
    inputs = 0.0 if mask is None else 1.0 - mask.double().mean().item()
    return inputs, (batch["labels"] == IGNORE_ID).double().mean().item()


class FineTuningCollator:
    """Pads encoded examples to the longest of the batch, rounded up to a multiple of 8.

    An example has `input_ids` and `labels` (both with EOS, no padding) and `example_index`.
    """

    def __init__(self, *, pad_id: int, start_id: int, pad_to_multiple_of: int = 8):
        self.pad_id = pad_id
        self.start_id = start_id
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        inputs = self._pad([example["input_ids"] for example in examples], fill=self.pad_id)
        labels = self._pad([example["labels"] for example in examples], fill=IGNORE_ID)
        return _to_tensors(
            input_ids=inputs,
            input_lengths=np.array([len(example["input_ids"]) for example in examples]),
            labels=labels,
            examples=np.array([example["example_index"] for example in examples]),
            start_id=self.start_id,
            pad_id=self.pad_id,
        )

    def _pad(self, rows: list, *, fill: int) -> np.ndarray:
        longest = max(len(row) for row in rows)
        width = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        out = np.full((len(rows), width), fill, dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            line[: len(row)] = row
        return out
