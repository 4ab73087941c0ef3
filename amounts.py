"""Lengths, intervals and batch sizes in the units one thinks in, and what they are in steps.

500   10k   0.1           steps, ten thousand steps, a tenth of the run
10G_tokens   1M_examples  what is read
0.5_epochs                passes over the training data
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from errors import UserError

UNITS = ("steps", "tokens", "examples", "epochs")
PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
BINARY_PREFIXES = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30, "B": 2**30, "T": 2**40}
_WORD = re.compile(
    r"(?P<number>-?\d+(?:[._]\d+)*(?:e[+-]?\d+)?)(?P<prefix>[kMGBT]?)_?(?P<unit>[a-z]*)"
)


@dataclass(frozen=True)
class Amount:
    """So many of a unit; a number below 1 without a unit is a `fraction` of the run."""

    number: float
    unit: str


def parse_amount(
    text: str,
    *,
    flag: str,
    unit: str = "steps",
    units: tuple[str, ...] = UNITS,
    prefixes: dict[str, int] = PREFIXES,
) -> Amount:
    """What a word such as 10M_tokens says; `unit` is what a bare number counts."""
    found = _WORD.fullmatch(str(text).strip())
    if found is None or (found["unit"] or unit) not in units:
        raise UserError(
            f"{flag} {text}: expected a number of {unit}, such as 500 or 10k, or one with a unit: "
            f"{', '.join(f'10{example}' for example in _examples(units))}."
        )
    number = float(found["number"]) * prefixes[found["prefix"]]
    is_fraction = not found["unit"] and 0 < number < 1 and unit == "steps"
    return Amount(number, "fraction" if is_fraction else found["unit"] or unit)


def _examples(units: tuple[str, ...]) -> list[str]:
    prefixes = {"tokens": "M_tokens", "examples": "k_examples", "epochs": "_epochs"}
    return [prefixes[unit] for unit in units if unit in prefixes]


def tokens_in_examples(amount: Amount, *, tokens_per_example: int | None, flag: str) -> Amount:
    """The same in examples; `tokens_per_example` is None where examples differ in length."""
    if amount.unit != "tokens":
        return amount
    if tokens_per_example is None:
        raise UserError(
            f"{flag} in tokens: the examples of a task differ in length, so tokens say nothing "
            "about steps. Give steps, examples or epochs."
        )
    return Amount(amount.number / tokens_per_example, "examples")


def split_batch(num_examples: int, *, num_ranks: int, most_per_device: int) -> tuple[int, int]:
    """(examples per device, accumulation) that make up exactly a global batch on so many ranks."""
    per_rank, rest = divmod(num_examples, num_ranks)
    if rest or not per_rank:
        below = num_examples - rest
        near = " or ".join(str(n) for n in (below, below + num_ranks) if n)
        raise UserError(
            f"--global_batch_size {num_examples} cannot be shared by {num_ranks} processes. "
            f"Type --global_batch_size {near}."
        )
    per_device = max(
        size for size in range(1, min(most_per_device, per_rank) + 1) if per_rank % size == 0
    )
    return per_device, per_rank // per_device


def count_steps_per_epoch(
    num_examples: int, *, per_device: int, num_ranks: int, accumulation: int
) -> int:
    """Optimizer steps of one pass, the last and smaller batch included."""
    batches = math.ceil(num_examples / per_device)
    return max(1, math.ceil(math.ceil(batches / num_ranks) / accumulation))


def num_times(strategy: str, every: float, *, num_steps: int, num_epochs: float) -> int:
    """How often something happens: every so many steps (below 1 a share of the run) or epochs.

    The last step is evaluated and saved too where its number is not one of them.
    """
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return math.ceil(num_epochs)
    interval = math.ceil(num_steps * every) if every < 1 else every
    return math.ceil(num_steps / interval)
