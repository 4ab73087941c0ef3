"""T5's loss straight from decoder states: cross entropy and z-loss without a table of all logits.

A batch of 128 x 114 targets has 14,592 x 32,128 logits: 0.9 GB in bfloat16, and in float32 1.9 GB
for each of their log-probabilities and gradients. Here the output head goes through the targets in
chunks, and what a chunk adds to the gradients is known before the next one begins:

    states   s1 s2 | s3 s4 | s5          chunks of 2 tokens
    logits   [2, vocabulary], three times in the same memory
    kept     the gradient of states [5, width] and of the head's weight [vocabulary, width]

So nothing is computed twice: three products of states and weight, as with a table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from constants import IGNORE_ID

# A chunk's logits in float32: 1,044 tokens of T5's vocabulary. On 2 CPU cores chunks of 256 to 912
# tokens take the same time (128: 20 % more).
CHUNK_BYTES = 1 << 27
# So much of a chunk is in float32 at a time on a CPU, where it then stays in the cache.
CACHE_BYTES = 1 << 22


class TokenScores(NamedTuple):
    """Loss in nats and whether the likeliest token is the label, both [batch, length]."""

    losses: torch.Tensor
    is_correct: torch.Tensor


class LossHead(nn.Linear):
    """A model's output head that can answer with losses where logits were not asked for.

    It answers inside the model's own forward pass, where DDP, ZeRO-3 and FSDP have its weight.
    """

    answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.answer is None:
            return super().forward(states)
        return self.answer(states, self.weight)


def with_loss_head(model: nn.Module) -> nn.Module:
    """The same model, whose head is a LossHead: same weights, names and hooks."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        head.__class__ = LossHead
    return model


@contextlib.contextmanager
def answering_with(
    model: nn.Module, answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Inside, the model's `logits` are what `answer(states, weight)` returns."""
    head = model.get_output_embeddings()
    head.answer = answer
    try:
        yield
    finally:
        head.answer = None


def summed_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    *,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """[cross entropy + z-loss, the z-loss in it], in nats, summed over the counted target tokens.

    `states` is [batch, length, width], `weight` [vocabulary, width], `labels` [batch, length] with
    IGNORE_ID where nothing is asked. The z-loss, z_loss * log(Z)^2, keeps the logits' normaliser
    near 1, where bfloat16 is exact; it carries no gradient of its own in the second result.

    Source: t5x/losses.py, cross_entropy_with_logits; label smoothing as torch defines it.
    """
    return _SummedLoss.apply(
        states.flatten(0, 1), weight, labels.flatten(), label_smoothing, z_loss, chunk_tokens
    )


def token_scores(
    states: torch.Tensor,
    weight: torch.Tensor,
    *,
    labels: torch.Tensor,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Loss in nats (0 where nothing is asked) and hit (0 or 1), [2, batch, length]; no gradient."""
    rows, asked = states.flatten(0, 1), labels.flatten()
    compute = _dtype_of_products(weight)
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        weight = weight.to(compute)
        parts = []
        for part in _chunks(len(rows), weight, chunk_tokens):
            logits = functional.linear(rows[part].to(compute), weight)
            parts.append(torch.stack(score_logits(logits, asked[part])))
    return torch.cat(parts, 1).view(2, *labels.shape)


def score_logits(logits: torch.Tensor, labels: torch.Tensor) -> TokenScores:
    """The scores of logits [..., vocabulary]."""
    losses = functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE_ID, reduction="none"
    )
    return TokenScores(losses.view_as(labels), (logits.argmax(-1) == labels).float())


class _SummedLoss(torch.autograd.Function):
    """Both gradients are made in the forward pass, chunk by chunk, and only scaled in the other."""

    @staticmethod
    def forward(ctx, states, weight, labels, label_smoothing, z_loss, chunk_tokens):
        needs_states, needs_weight = ctx.needs_input_grad[:2]
        compute = _dtype_of_products(weight)
        wide = torch.promote_types(compute, torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            table = weight.to(compute)
            by_states = torch.empty_like(states) if needs_states else None
            by_weight = None
            sums = torch.zeros(2, dtype=wide, device=states.device)
            for part in _chunks(len(states), weight, chunk_tokens):
                inputs = states[part].to(compute)
                gradient = functional.linear(inputs, table)  # logits, until it is overwritten
                for rows in _rows_in_cache(gradient):
                    _loss_to_gradient(
                        gradient[rows],
                        labels[part][rows],
                        sums,
                        label_smoothing=label_smoothing,
                        z_loss=z_loss,
                    )
                if needs_states:
                    by_states[part] = gradient @ table
                if needs_weight:
                    part_of_weight = gradient.T @ inputs
                    if by_weight is None:
                        by_weight = part_of_weight  # of one chunk it stays as it is
                    else:
                        by_weight = by_weight.to(wide).add_(part_of_weight.to(wide))
        ctx.weight_dtype, ctx.wide = weight.dtype, wide
        ctx.save_for_backward(by_states, by_weight)
        return sums

    @staticmethod
    def backward(ctx, gradient):
        by_states, by_weight = ctx.saved_tensors
        if by_states is not None:
            by_states = by_states * gradient[0]
        if by_weight is not None:
            by_weight = by_weight.to(ctx.wide).mul_(gradient[0]).to(ctx.weight_dtype)
        return by_states, by_weight, None, None, None, None


def _loss_to_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    sums: torch.Tensor,
    *,
    label_smoothing: float,
    z_loss: float,
) -> None:
    """Adds the losses of logits to `sums` and writes their gradient in the logits' place."""
    counted = (labels != IGNORE_ID)[:, None].to(sums.dtype)
    labels = labels.clamp(min=0)[:, None]
    table = torch.log_softmax(logits, -1, dtype=sums.dtype)
    at_label = table.gather(-1, labels)
    log_z = logits.gather(-1, labels).to(sums.dtype) - at_label
    losses = -(1 - label_smoothing) * at_label
    if label_smoothing:
        losses -= label_smoothing * table.mean(-1, keepdim=True)
    penalty = (z_loss * log_z.square() * counted).sum()
    sums += torch.stack([(losses * counted).sum() + penalty, penalty])
    table.exp_().mul_((1 + 2 * z_loss * log_z) * counted)
    if label_smoothing:
        table.sub_(label_smoothing / table.shape[-1] * counted)
    table.scatter_add_(-1, labels, -(1 - label_smoothing) * counted)
    logits.copy_(table)


def _rows_in_cache(logits: torch.Tensor) -> Iterator[slice]:
    """All rows at once on a GPU; on a CPU so many that their float32 table stays in the cache."""
    num_tokens, vocabulary = logits.shape
    size = max(1, CACHE_BYTES // (4 * vocabulary) if logits.is_cpu else num_tokens)
    return (slice(first, first + size) for first in range(0, num_tokens, size))


def _dtype_of_products(weight: torch.Tensor) -> torch.dtype:
    """What autocast would multiply in, which does not reach into autograd functions."""
    device = weight.device.type
    is_mixed = torch.is_autocast_enabled(device) and weight.dtype == torch.float32
    return torch.get_autocast_dtype(device) if is_mixed else weight.dtype


def _chunks(num_tokens: int, weight: torch.Tensor, chunk_tokens: int | None) -> Iterator[slice]:
    """The targets in equal parts, so that the last one is not a small one."""
    most = chunk_tokens or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    num_chunks = max(1, -(-num_tokens // most))
    size = -(-num_tokens // num_chunks)
    return (slice(first, first + size) for first in range(0, num_tokens, size))
