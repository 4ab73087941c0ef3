"""Attention with T5's position bias, registered with transformers by name; no model is changed.

T5 adds a learned table [heads, queries, keys] to the scores of self-attention. The library adds a
table of zeros to those of cross-attention as well, adds the masks apart, and keeps scores in
float32 where the products are bfloat16. What is here instead:

    lean    the library's arithmetic with one table kept for the backward pass, in the dtype of the
            products; fastest on a CPU
    sdpa    torch's memory-efficient kernels, with bias and mask as one table and none where both
            are empty; for GPUs
    flex    FlexAttention: the kernel looks a score's bias up by its distance; for GPUs

Distances of 3 queries and 4 keys, and the one row `flex` looks them up in:

    q0   0  1  2  3
    q1  -1  0  1  2        -2 -1 0 1 2 3
    q2  -2 -1  0  1
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    eager_mask,
)

# ---- masks --------------------------------------------------------------------------------------


def smallest_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function=causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **kwargs,
) -> torch.Tensor | None:
    """What is added to scores, [batch or 1, 1, queries or 1, keys]; None where nothing is hidden.

    The library's has all dimensions, and it reads a mask it is given to find out whether there is
    anything to hide. Here nothing is read: the collators leave out the mask of a full batch.
    """
    causal = mask_function is causal_mask_function
    is_known = causal or mask_function is bidirectional_mask_function
    is_aligned = attention_mask is None or attention_mask.shape[-1] == kv_length
    if not (is_known and is_aligned and isinstance(q_offset, int)):
        return eager_mask(
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            dtype=dtype,
            device=device,
            **kwargs,
        )
    hidden = None if attention_mask is None else ~attention_mask[:, None, None, :].bool()
    if causal and kv_length - 1 + kv_offset > q_offset:
        everything = torch.ones((1, 1, q_length, kv_length), dtype=torch.bool, device=device)
        later = everything.triu(1 + q_offset - kv_offset)
        hidden = later if hidden is None else hidden | later
    if hidden is None:
        return None
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)


def is_cross_attention(module: torch.nn.Module) -> bool:
    """True where the decoder looks at the encoder; its bias is always zero."""
    return module.is_decoder and not module.is_causal


def bias_and_mask(
    module: torch.nn.Module,
    position_bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    *,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """What is added to scores of this dtype: nothing, one table or, where the mask has rows, two.

    A number that the dtype cannot hold must not become -inf: a row of them would become NaN.
    """
    tables = []
    if position_bias is not None and not is_cross_attention(module):
        tables.append(position_bias)
    if mask is not None:
        tables.append(mask.clamp(min=torch.finfo(dtype).min))
    if len(tables) == 2 and tables[1].shape[0] == 1:
        return [tables[0] + tables[1]]
    return tables


# ---- implementations ----------------------------------------------------------------------------


class _LeanAttention(torch.autograd.Function):
    """softmax(q k' + bias + mask) v; of the scores only their softmax is kept, in their dtype.

    Autograd would keep it in float32 and, for the product with v, once more in bfloat16.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, dropout):
        # Every product would copy what is not contiguous anew, and a transposed copy takes longer.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        shares = torch.matmul(query, key.transpose(2, 3))
        for table in (bias, mask):
            if table is not None:
                shares += table.to(shares.dtype)
        shares = torch._softmax(shares, -1, False)
        kept = shares
        drawn = None
        if dropout:
            kept, drawn = torch.native_dropout(shares, dropout, True)
        ctx.save_for_backward(query, key, value, shares, kept if dropout else None, drawn)
        ctx.dropout = dropout
        ctx.bias_like = None if bias is None else (bias.shape, bias.dtype)
        return torch.matmul(kept, value)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, shares, kept, drawn = ctx.saved_tensors
        kept = shares if kept is None else kept
        by_value = torch.matmul(kept.transpose(2, 3), gradient)
        by_scores = torch.matmul(gradient, value.transpose(2, 3))
        if drawn is not None:
            by_scores = by_scores.mul_(drawn).mul_(1 / (1 - ctx.dropout))
        by_scores = torch._softmax_backward_data(by_scores, shares, -1, shares.dtype)
        by_query = torch.matmul(by_scores, key)
        by_key = torch.matmul(by_scores.transpose(2, 3), query)
        by_bias = None
        if ctx.needs_input_grad[3]:
            by_bias = _summed_like(by_scores, *ctx.bias_like)
        return by_query, by_key, by_value, by_bias, None, None


def _summed_like(table: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """A table [batch, heads, queries, keys] summed in float32 over what has one entry in `shape`.

    On a CPU row by row: torch's own sum of a bfloat16 table takes 7 times as long there.
    """
    if shape[0] == 1 and table.is_cpu and not torch.compiler.is_compiling():
        total = table[:1].float()
        for row in table[1:]:
            total += row
        return total.to(dtype)
    wide = torch.promote_types(table.dtype, torch.float32)
    summed = [dim for dim, size in enumerate(shape) if size == 1 and table.shape[dim] != 1]
    return (table.sum(summed, keepdim=True, dtype=wide) if summed else table).to(dtype)


def lean_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Output [batch, queries, heads, width] from states [batch, heads, length, width]."""
    query = _scaled(query, scaling)
    tables = bias_and_mask(module, position_bias, attention_mask, dtype=query.dtype)
    bias, mask = (*tables, None, None)[:2]
    output = _LeanAttention.apply(query, key, value, bias, mask, dropout)
    return output.transpose(1, 2).contiguous(), None


def sdpa_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """As `lean_attention`, by torch's kernels."""
    tables = bias_and_mask(module, position_bias, attention_mask, dtype=query.dtype)
    tables = [table.to(query.dtype) for table in tables]  # a sum in float32 would be kept as well
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=functools.reduce(torch.add, tables) if tables else None,
        dropout_p=dropout,
        scale=scaling,
    )
    return output.transpose(1, 2).contiguous(), None


def flex_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """As `lean_attention`, by a kernel made for it; with dropout, which it lacks, by `sdpa`.

    On a GPU it is compiled for each shape, and after 8 torch gives up: so only what trains, whose
    shape is one, goes through it, and evaluation and generation through `sdpa`.
    """
    if dropout or (query.is_cuda and not torch.is_grad_enabled()):
        arguments = (module, query, key, value, attention_mask, scaling, dropout, position_bias)
        return sdpa_attention(*arguments)
    bias = None
    if position_bias is not None and not is_cross_attention(module):
        bias = by_distance(position_bias)
    output = _flex(query.is_cuda)(
        query, key, value, score_mod=_score_mod(bias, attention_mask, query), scale=scaling
    )
    return output.transpose(1, 2).contiguous(), None


def by_distance(position_bias: torch.Tensor) -> torch.Tensor:
    """The bias of distances 1 - queries ... keys - 1, [heads, queries + keys - 1].

    A bias [1, heads, queries, keys] says the same along each diagonal; what stands in its first
    column and row is all of it, also for the gradient of what the whole was looked up in.
    """
    before, after = position_bias[0, :, 1:, 0].flip(-1), position_bias[0, :, 0]
    return torch.cat([before, after], -1)


def _score_mod(bias: torch.Tensor | None, mask: torch.Tensor | None, query: torch.Tensor):
    num_before = query.shape[2] - 1
    if mask is not None:
        mask = mask.expand(len(query), 1, query.shape[2], -1)

    def add(score, row, head, q, k):
        if bias is not None:
            score = score + bias[head, k - q + num_before]
        if mask is not None:
            score = score + mask[row, 0, q, k]
        return score

    return add


@functools.cache
def _flex(is_cuda: bool):
    """FlexAttention, compiled on a GPU: uncompiled it makes the whole table of scores."""
    from torch.nn.attention.flex_attention import flex_attention as kernel

    return torch.compile(kernel, dynamic=False) if is_cuda else kernel


def _scaled(query: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """T5's scale is 1; None is the library's word for the square root of the width."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return query if scaling == 1 else query * scaling


OWN = {"lean": lean_attention, "sdpa": sdpa_attention, "flex": flex_attention}


def registered_attention(name: str, *, use_cpu: bool) -> str:
    """The name that a transformers config knows an implementation by; auto: the device's best."""
    if name == "auto":
        name = "lean" if use_cpu else "sdpa"
    if name not in OWN:
        return name
    if not use_cpu:
        # cuDNN's attention plans anew for each shape, and generation has one for each token
        # (half a second each: modelscope/FunASR#3704); it takes no bias that learns anyway.
        torch.backends.cuda.enable_cudnn_sdp(False)
    AttentionInterface.register(f"t5_{name}", OWN[name])
    AttentionMaskInterface.register(f"t5_{name}", smallest_mask)
    return f"t5_{name}"
