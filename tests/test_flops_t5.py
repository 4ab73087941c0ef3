"""Proves that the arithmetic of a T5 is counted as torch's own counter finds it being done."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5ForConditionalGeneration

from flops_t5 import forward_flops, peak_flops, training_flops


@pytest.mark.parametrize("feed_forward_proj", ["relu", "gated-gelu"])
def test_forward_and_backward_are_counted_exactly(feed_forward_proj):
    config = T5Config(
        vocab_size=96,
        d_model=32,
        d_kv=12,
        d_ff=80,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        feed_forward_proj=feed_forward_proj,
        attn_implementation="eager",
        dropout_rate=0.0,
    )
    model = T5ForConditionalGeneration(config)
    inputs, labels = torch.ones((2, 40), dtype=torch.long), torch.ones((2, 12), dtype=torch.long)
    shape = {"num_examples": 2, "input_tokens": 40, "target_tokens": 12}
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=inputs, decoder_input_ids=labels).logits
    assert forward.get_total_flops() == forward_flops(config, **shape)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == training_flops(config, **shape)


def test_peaks_are_found_by_the_drivers_names():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA H200 NVL") == 835e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA GB200") == 2500e12
    assert peak_flops("NVIDIA A10G") == 70e12
    assert peak_flops("NVIDIA A10") == 125e12
    assert peak_flops("NVIDIA GeForce RTX 4090") == 165e12
    assert peak_flops("NVIDIA RTX A6000") == 155e12


@pytest.mark.parametrize(
    "name", ["AMD EPYC 9575F", "NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA A100 MIG 1g.5gb"]
)
def test_no_peak_is_better_than_another_device_s(name):
    assert peak_flops(name) is None
