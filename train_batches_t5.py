"""Training batches that waste little: grouped by length, or several examples in one row.

Six examples of 3, 9, 4, 8, 3 and 3 tokens, a budget of 16:

    random    3 9 | 4 8 | 3 3      9+9  8+8  3+3    40 tokens are computed for 30
    grouped   3 3 3 4 | 8 | 9      4+4+4+4  8  9    33, and what shares a batch is of one length
    packed    9 4 3 | 8 3 3        16  16           32, with masks that keep the examples apart

A batch is one item here, so that the Trainer's samplers, ranks and resumption deal in batches.
Which examples share one follows from (seed, epoch) alone, for any number of ranks: rank r of n
takes the batches r, r + n, ... of the order of the epoch.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from constants import IGNORE_ID
from data_collator_t5 import FineTuningCollator
from errors import UserError

PAD_TO_MULTIPLE_OF = 8  # what tensor cores want; FineTuningCollator pads to the same

# A row of short examples has more targets than the mean row. Of 1, 1.25, 1.5, 2 and 3 this fills
# rows best on GLUE-like lengths: 87 % of all tokens are real, 95 % of the inputs.
TARGET_ROOM = 1.5


def padded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to what the collator pads to."""
    return -(-lengths // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


class _Batches(Dataset, ABC):
    """What both kinds share: key = epoch * len(self) + number of a batch -> its examples.

    An epoch has as many batches as the first one. In a mixture, whose epochs hold different rows,
    a later epoch may need a few more or fewer: those over are left out, those missing are repeated.
    """

    is_batched = True  # what the Trainer takes for one example is a batch

    def __init__(self, examples: Dataset, *, tokens_per_batch: int, seed: int):
        self.examples = examples
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self._epoch, self._batches = 0, self._arrange(examples.lengths(0), self._rng(0))
        self.num_batches = len(self._batches)

    def __len__(self) -> int:
        return self.num_batches

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, epoch]))

    def _batch(self, key: int) -> tuple[int, list]:
        """(key of the epoch's first example, the positions that a batch holds)."""
        epoch, number = divmod(key, len(self))
        if epoch != self._epoch:
            self._batches = self._arrange(self.examples.lengths(epoch), self._rng(epoch))
            self._epoch = epoch
        return epoch * len(self.examples), self._batches[number % len(self._batches)]

    @abstractmethod
    def _arrange(self, lengths: np.ndarray, rng: np.random.Generator) -> list:
        """The positions of each batch, from the lengths of an epoch's examples."""


class GroupedBatches(_Batches):
    """Batches of examples of one length, as many as the token budget takes, padding included.

    Equal padded lengths are shuffled among themselves in each epoch; since the budget looks at
    padded lengths only, every epoch of the same rows has the same number of batches.
    """

    def __getitems__(self, keys: Sequence[int]) -> list[dict]:
        return [
            self.examples[first + position]
            for first, positions in map(self._batch, keys)
            for position in positions
        ]

    def __getitem__(self, key: int) -> list[dict]:
        return self.__getitems__([key])

    def _arrange(self, lengths: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
        widths = padded(lengths)
        order = np.lexsort((rng.permutation(len(widths)), widths[:, 1], widths[:, 0]))
        batches: list[list[int]] = []
        widest = np.zeros(2, dtype=int)
        for position in order:
            grown = np.maximum(widest, widths[position])
            if not batches or (len(batches[-1]) + 1) * grown.sum() > self.tokens_per_batch:
                batches.append([])
                grown = widths[position]
            batches[-1].append(int(position))
            widest = grown
        return batches


class PackedBatches(_Batches):
    """Batches of rows of one width, each row filled with whole examples, longest first.

    A row is as wide as the longest example. Its targets are as wide as the longest target, or as
    many as the inputs of a full row bring along (TARGET_ROOM), whichever is more. Examples of equal
    length take each other's places in each epoch, so every epoch of the same rows has as many
    batches.
    """

    def __init__(self, examples: Dataset, *, tokens_per_batch: int, seed: int):
        self.widths = row_widths(examples.lengths(0))
        self._sorted, self._places = np.empty((0, 2)), []
        super().__init__(examples, tokens_per_batch=tokens_per_batch, seed=seed)

    def __getitems__(self, keys: Sequence[int]) -> list[list[dict]]:
        """Rows, each a list of examples; the rows of all these batches."""
        return [
            [self.examples[first + position] for position in row]
            for first, rows in map(self._batch, keys)
            for row in rows
        ]

    def __getitem__(self, key: int) -> list[list[dict]]:
        return self.__getitems__([key])

    def _arrange(self, lengths: np.ndarray, rng: np.random.Generator) -> list[list[list[int]]]:
        order = np.lexsort((rng.permutation(len(lengths)), -lengths[:, 1], -lengths[:, 0]))
        if not np.array_equal(self._sorted, lengths[order]):
            self._sorted = lengths[order]
            widths = np.maximum(self.widths, row_widths(lengths))
            self._places = fill_rows(self._sorted, widths=widths)
        rows = [
            order[self._places[number]].tolist() for number in rng.permutation(len(self._places))
        ]
        rows_per_batch = max(1, self.tokens_per_batch // int(self.widths.sum()))
        return [rows[i : i + rows_per_batch] for i in range(0, len(rows), rows_per_batch)]


def row_widths(lengths: np.ndarray) -> np.ndarray:
    """(input, target) tokens of a packed row, see `PackedBatches`."""
    longest, total = lengths.max(0), lengths.sum(0)
    brought = math.ceil(TARGET_ROOM * longest[0] * total[1] / total[0])
    return padded(np.array([longest[0], max(longest[1], brought)]))


def fill_rows(lengths: np.ndarray, *, widths: np.ndarray) -> list[list[int]]:
    """Rows of positions whose (input, target) lengths fit into `widths`.

    In the order given, each example goes where it leaves the least room for inputs (best fit). A
    shelf holds the rows with so much room; the shelves above an example's length are searched.
    """
    rows: list[list[int]] = []
    shelves: list[list[tuple[int, int]]] = [[] for _ in range(int(widths[0]) + 1)]
    for position, (inputs, targets) in enumerate(lengths.tolist()):
        for room in range(inputs, len(shelves)):
            if shelves[room] and shelves[room][-1][1] >= targets:
                number, target_room = shelves[room].pop()
                break
        else:
            number, room, target_room = len(rows), *widths.tolist()
            rows.append([])
        rows[number].append(position)
        shelves[room - inputs].append((number, target_room - targets))
    return rows


KINDS = {"grouped": GroupedBatches, "packed": PackedBatches}
TRAIN_BATCHINGS = ("random", *KINDS)


def make_batches(
    examples: Dataset, *, batching: str, tokens_per_batch: int | None, batch_size: int, seed: int
) -> Dataset:
    """The training set in batches of a token budget; 'random' leaves it to the Trainer.

    Without a budget a batch holds as many tokens as `batch_size` examples of mean length.
    """
    if batching == "random":
        return examples
    lengths = examples.lengths(0)
    widths = padded(lengths).sum(1)
    least = int(row_widths(lengths).sum() if batching == "packed" else widths.max())
    if tokens_per_batch is None:
        tokens_per_batch = max(least, round(batch_size * widths.mean()))
        if batching == "packed":  # in whole rows
            tokens_per_batch = least * math.ceil(batch_size * lengths.sum(1).mean() / least)
    if tokens_per_batch < least:
        longest = lengths[widths.argmax()]
        raise UserError(
            f"--tokens_per_batch {tokens_per_batch} does not hold the longest example, which has "
            f"{longest[0]} input and {longest[1]} target tokens; a batch needs {least}. Give "
            f"--tokens_per_batch {least} or more, or a shorter --input_seq_length."
        )
    return KINDS[batching](examples, tokens_per_batch=tokens_per_batch, seed=seed)


# ---- several examples in one row ----------------------------------------------------------------


class TaskCollator(FineTuningCollator):
    """Pads examples, as an evaluation has them, or rows of several, as packed batches have them.

    Of several examples in a row, the number of the one at each position is told:

        input_ids        a b </s> c </s> 0      labels             x </s> y z </s>
        input_documents  1 1 1    2 2    0      decoder_input_ids  0 x    0 y z
                                                target_documents   1 1    2 2 2

    Shapes [rows, length], padded to a multiple of 8. Source of the layout: seqio's packing.
    """

    def __call__(self, rows: Sequence[dict] | Sequence[Sequence[dict]]) -> dict[str, torch.Tensor]:
        if isinstance(rows[0], dict):
            return super().__call__(rows)
        inputs = [[example["input_ids"] for example in row] for row in rows]
        labels = [[example["labels"] for example in row] for row in rows]
        started = [[[self.start_id, *ids[:-1]] for ids in row] for row in labels]
        return {
            "input_ids": _joined(inputs, fill=self.pad_id),
            "input_documents": _numbered(inputs),
            "labels": _joined(labels, fill=IGNORE_ID),
            "decoder_input_ids": _joined(started, fill=self.pad_id),
            "target_documents": _numbered(labels),
        }


def _joined(rows: Sequence[Sequence[Sequence[int]]], *, fill: int) -> torch.Tensor:
    joined = [list(itertools.chain.from_iterable(row)) for row in rows]
    width = -(-max(map(len, joined)) // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
    return torch.tensor([ids + [fill] * (width - len(ids)) for ids in joined])


def _numbered(rows: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
    numbers = [[[number] * len(ids) for number, ids in enumerate(row, start=1)] for row in rows]
    return _joined(numbers, fill=0)


def attend_within_documents(model: torch.nn.Module) -> None:
    """Makes a T5 take `input_documents` and `target_documents`, and keep the documents apart.

    T5's position bias depends on distances within a row alone, so an example of a packed row is
    computed exactly as by itself once nothing else is attended to. The library passes a 4-D mask
    on as it is; hooks put it where the two-dimensional one would be made. Without the two arguments
    nothing changes.
    """
    model.get_encoder().register_forward_pre_hook(_mask_encoder, with_kwargs=True)
    model.get_decoder().register_forward_pre_hook(_mask_decoder, with_kwargs=True)


def _mask_encoder(stack: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    inputs, targets = kwargs.pop("input_documents", None), kwargs.pop("target_documents", None)
    if targets is not None:
        kwargs["attention_mask"] = additive_mask(same_document(inputs, inputs), like=stack)
    return args, kwargs


def _mask_decoder(stack: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    inputs, targets = kwargs.pop("input_documents", None), kwargs.pop("target_documents", None)
    if targets is not None:
        before = same_document(targets, targets).tril()
        kwargs["attention_mask"] = additive_mask(before, like=stack)
        kwargs["encoder_attention_mask"] = additive_mask(same_document(targets, inputs), like=stack)
    return args, kwargs


def same_document(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """True where query and key are of one document, [rows, queries, keys]."""
    return queries[:, :, None] == keys[:, None, :]


def additive_mask(allowed: torch.Tensor, *, like: torch.nn.Module) -> torch.Tensor:
    """What eager and sdpa attention add to their scores, [rows, 1, queries, keys]."""
    dtype = next(like.parameters()).dtype
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
