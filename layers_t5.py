"""T5's norms and feed-forward layers with fewer passes over memory than the library's.

Same weights, names and numbers. The library writes norms and `gelu_new`, the tanh approximation of
GELU, out in steps; and under autocast its norms' output and the states between two layers go from
bfloat16 to float32 and back.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import NewGELUActivation


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight, of [..., width], in `dtype`; what is between is float32.

    Torch has a kernel for GPUs; on a CPU its six operations, and those of the backward pass, take
    twice as long as these.
    """

    @staticmethod
    def forward(ctx, states, weight, epsilon, dtype):
        scale = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        scale = scale.div_(states.shape[-1]).add_(epsilon).rsqrt_()
        normed = states * scale
        ctx.save_for_backward(normed, weight, scale)
        return (normed * weight).to(dtype)

    @staticmethod
    def backward(ctx, gradient):
        normed, weight, scale = ctx.saved_tensors
        gradient = gradient.to(normed.dtype)
        by_weight = (gradient * normed).flatten(0, -2)
        along = (by_weight @ weight).view_as(scale) / -normed.shape[-1]
        by_states = (gradient * weight).addcmul_(normed, along).mul_(scale)
        return by_states, by_weight.sum(0), None, None


class FastNorm(nn.Module):
    """T5's RMS norm, whose output is already in the dtype that the next layers multiply in.

    Under autocast the library's is float32, and each of query, key and value copies it anew.
    """

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        device = states.device.type
        dtype = self.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        wide = states.float()
        weight = self.weight.to(wide.dtype)
        if device == "cpu" and not torch.compiler.is_compiling():
            return _RmsNorm.apply(wide, weight, self.variance_epsilon, dtype)
        normed = functional.rms_norm(wide, wide.shape[-1:], weight, self.variance_epsilon)
        return normed.to(dtype)


class FastGatedLayer(nn.Module):
    """T5 v1.1's feed-forward layer; under autocast its last product takes the states as they are.

    The library makes them float32, as the weight is, and autocast bfloat16 again.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.dropout(self.act(self.wi_0(states)) * self.wi_1(states))
        if not torch.is_autocast_enabled(states.device.type):
            states = states.to(self.wo.weight.dtype)  # which half-precision models keep in float32
        return self.wo(states)


class FastPositionBias(nn.Embedding):
    """The biases of relative positions, looked up once for each distance.

    The library looks one up for each query and key, and leaves the table of an attention's scores
    in memory as [queries, keys, heads]; here it is [heads, queries, keys], as scores are. Every
    diagonal of `buckets` [queries, keys] has one value: its first column and row hold all.
    """

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        distances = torch.cat([buckets[1:, 0].flip(0), buckets[0]])
        of_heads = super().forward(distances).t().contiguous()
        table = of_heads.unfold(1, buckets.shape[1], 1).flip(1).contiguous()
        return table.permute(1, 2, 0)


def with_fast_layers(model: nn.Module) -> nn.Module:
    """The same model with these norms and layers, and with GELU by torch's own kernel."""
    for module in list(model.modules()):
        kind = type(module).__name__
        if kind.endswith("T5LayerNorm"):
            module.__class__ = FastNorm
        if kind.endswith("T5DenseGatedActDense"):
            module.__class__ = FastGatedLayer
        if type(getattr(module, "relative_attention_bias", None)) is nn.Embedding:
            module.relative_attention_bias.__class__ = FastPositionBias
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = nn.GELU(approximate="tanh")
    return model
