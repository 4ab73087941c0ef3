"""Weights and optimizer states of a model in FSDP2's shares, written and read whole.

    rank 0   wi.weight [rows 0-3]  ->  model.safetensors   wi.weight [rows 0-7]
    rank 1   wi.weight [rows 4-7]      optimizer.pt        wi.weight: exp_avg [rows 0-7]

The library writes pickles of its own beside the weights, and reading those back fails for a weight
that several modules share. Every rank must call these functions.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel

from errors import UserError

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
# Whole tensors, gathered one by one into the memory of rank 0's host.
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
# Rank 0 has them whole and deals out the shares. A weight under two names is there under one.
DEALT_OUT = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


def share_one_embedding(model: PreTrainedModel) -> None:
    """Makes encoder and decoder call the one module `shared`, before FSDP2 wraps the model.

    The library's three modules of one weight would belong to several groups, which FSDP2 refuses;
    a module is gathered at each of its calls, whoever calls it.
    """
    if hasattr(model, "peft_config"):
        raise UserError(
            "Adapters (LoRA) under FSDP: a checkpoint of them could not be loaded again. Their "
            "optimizer states are small: start with runs/accelerate/many_gpus.yaml."
        )
    model.set_input_embeddings(model.get_input_embeddings())


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path, *, model: PreTrainedModel):
    """Rank 0 writes the states of all shares, by the names of the weights."""
    state = get_optimizer_state_dict(model, optimizer, options=GATHERED)
    if dist.get_rank() == 0:
        torch.save(state, folder / OPTIMIZER)


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path, *, model: PreTrainedModel):
    """Gives each rank its share of the states that `save_optimizer` wrote."""
    state = {}
    if dist.get_rank() == 0:
        state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state, options=DEALT_OUT)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Gives each rank its share of a saved model."""
    state = load_file(folder / WEIGHTS) if dist.get_rank() == 0 else {}
    set_model_state_dict(model, state, options=DEALT_OUT)
