"""T5's blocks compiled one by one, for batches of one shape; weights, names and checkpoints stay.

Blocks of one kind share their code, so twelve cost as much as two: the first and the others of
encoder and decoder, with and without a mask, make 8, which is as many as torch keeps of a function.
So nothing but a training step of the usual shape is compiled: evaluation, generation and an odd
last batch run as they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable

import torch
from torch import nn

# What compiling costs has to come back. On a CPU it took about a minute of two cores, and a step
# gains a fifth at most; on a GPU a run of so many steps lasts minutes at least.
LEAST_CPU_SECONDS = 1800.0
LEAST_GPU_STEPS = 1000
CPU_FLOPS_PER_CORE = 1e11  # in bfloat16; measured 0.5e11 to 2e11


def compile_blocks(model: nn.Module, *, backend: str | Callable = "inductor") -> None:
    """Makes each block compile itself at its first call."""
    for stack in (model.get_encoder(), model.get_decoder()):
        for block in stack.block:
            block.compile(dynamic=False, backend=backend)


def as_they_are() -> contextlib.AbstractContextManager:
    """Inside, what is compiled runs uncompiled, and nothing new is compiled."""
    return torch.compiler.set_stance("force_eager")


def pays(*, is_cuda: bool, num_steps: int, step_flops: float) -> bool:
    """Whether a run is so long that compiling comes back; on a CPU also whether it can be done."""
    if is_cuda:  # Triton needs a compiler of C
        has_compiler = "CC" in os.environ or shutil.which("gcc") or shutil.which("clang")
        return num_steps >= LEAST_GPU_STEPS and bool(has_compiler)
    seconds = num_steps * step_flops / (CPU_FLOPS_PER_CORE * torch.get_num_threads())
    return seconds >= LEAST_CPU_SECONDS and shutil.which("g++") is not None
