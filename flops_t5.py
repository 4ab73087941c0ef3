"""How much arithmetic a T5 needs, and how much a device can do: the two sides of MFU."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Dense bfloat16 tensor-core peaks in floating-point operations per second, from the makers' data
# sheets (no sparsity). The first name whose words the device's own name contains counts.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
    "MI250X": 383e12,
}


def peak_flops(device_name: str) -> float | None:
    """Peak of a device by the name its driver gives it, such as 'NVIDIA H100 80GB HBM3'.

    None for one that is not in the table, and for a share of a GPU (MIG).
    """
    if "MIG" in device_name:
        return None
    for name, flops in PEAK_FLOPS.items():
        if re.search(rf"\b{name}\b", device_name):
            return flops
    return None


def forward_flops(
    config: PretrainedConfig, *, num_examples: int, input_tokens: int, target_tokens: int
) -> int:
    """Multiplications and additions of all matrix products of one forward pass.

    Every example has `input_tokens` encoder and `target_tokens` decoder positions, padding
    included. Norms, softmax and embedding look-ups are left out, as is usual.
    """
    inner = config.num_heads * config.d_kv
    num_ff_matrices = 3 if config.is_gated_act else 2
    feed_forward = num_ff_matrices * config.d_model * config.d_ff
    projections = 4 * config.d_model * inner
    encoder = config.num_layers * input_tokens * (projections + feed_forward)
    encoder += config.num_layers * input_tokens * 2 * input_tokens * inner
    decoder = config.num_decoder_layers * target_tokens * (projections + feed_forward)
    decoder += config.num_decoder_layers * target_tokens * 2 * target_tokens * inner
    cross = config.num_decoder_layers * (input_tokens + target_tokens) * projections // 2
    cross += config.num_decoder_layers * target_tokens * 2 * input_tokens * inner
    head = target_tokens * config.d_model * config.vocab_size
    return 2 * num_examples * (encoder + decoder + cross + head)


def training_flops(config: PretrainedConfig, **shape: int) -> int:
    """A training step of the shape of `forward_flops`: the backward pass costs twice the forward.

    Recomputed activations are not counted: MFU is about useful work.
    """
    return 3 * forward_flops(config, **shape)
