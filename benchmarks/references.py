"""What is measured beside ours: the library's model, nanoT5's, and the collators of both.

All models have the same weights. Of a clone of nanoT5 its own modules are loaded; packages that
only its logging needs are replaced by empty ones. Nothing here sets what this project's programs
set for their process (cpu_process.py).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration
from transformers.utils import PaddingStrategy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attention_t5 import registered_attention  # noqa: E402
from constants import MODEL_SHAPES  # noqa: E402
from layers_t5 import with_fast_layers  # noqa: E402
from loss_t5 import with_loss_head  # noqa: E402

VOCABULARY = 32128
INPUTS, TARGETS = 512, 114
DENSITY, MEAN_SPAN = 0.15, 3.0
FOR_LOGGING_ONLY = ("omegaconf", "neptune", "hydra")


def config_of(shape: str, *, attention: str = "eager", **changes) -> T5Config:
    """A named shape without dropout."""
    config = T5Config(**(MODEL_SHAPES[shape] | changes))
    config.vocab_size = VOCABULARY
    config.dropout_rate = 0.0
    config.decoder_start_token_id = config.pad_token_id = 0
    config.use_cache = False
    config._attn_implementation = attention
    return config


class UntiedT5(T5ForConditionalGeneration):
    """The library's model with a v1.1's own head, which it would tie."""

    _tied_weights_keys = {
        name: source
        for name, source in T5ForConditionalGeneration._tied_weights_keys.items()
        if name != "lm_head.weight"
    }


def stock_model(shape: str, *, seed: int = 0, **changes) -> T5ForConditionalGeneration:
    """The library's model; the head starts as small as ours does.

    On a GPU with sdpa, the library's own default. On a CPU eager attention is faster (84 against
    118 ms a layer).
    """
    torch.manual_seed(seed)
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    model = UntiedT5(config_of(shape, attention=attention, **changes))
    torch.nn.init.normal_(model.lm_head.weight, std=model.config.d_model**-0.5)
    return model.train()


def our_model(shape: str, *, use_cpu: bool, attention: str = "auto", **changes):
    """The same weights with this project's attention and loss."""
    model = stock_model(shape, **changes)
    model.set_attn_implementation(registered_attention(attention, use_cpu=use_cpu))
    return with_fast_layers(with_loss_head(model))


def nano_t5_module(clone: Path, name: str) -> ModuleType:
    """A module of nanoT5/utils, without the imports of its __init__."""
    for package, folder in (("nanoT5", "nanoT5"), ("nanoT5.utils", "nanoT5/utils")):
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(clone / folder)]
    for package in FOR_LOGGING_ONLY:
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].OmegaConf = sys.modules[package].open_dict = None
    return importlib.import_module(f"nanoT5.utils.{name}")


def nano_t5_model(clone: Path, shape: str, **changes) -> torch.nn.Module:
    """nanoT5's own model with the same weights."""
    config = config_of(shape, **changes)
    config.tie_word_embeddings = False
    module = nano_t5_module(clone, "t5_model")
    # What its stacks inherited from the transformers of its time.
    module.T5Stack.get_extended_attention_mask = _additive_mask
    module.T5Stack.invert_attention_mask = _additive_mask
    model = module.MyT5(config)
    missing, unexpected = model.load_state_dict(
        stock_model(shape, **changes).state_dict(), strict=False
    )
    assert not missing and not unexpected, (missing, unexpected)
    return model.train()


def nano_t5_optimizer(clone: Path, model: torch.nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """nanoT5's own AdamW with steps scaled by the RMS of a weight."""
    return sys.modules[type(nano_t5_collator(clone, Words())).__module__].AdamWScale(
        model.parameters(), lr=lr, weight_decay=0.0
    )


class Words:
    """What a collator asks of T5's tokenizer."""

    pad_token_id, eos_token_id = 0, 1

    def __len__(self) -> int:
        return 32100


class LoopCollator:
    """Span corruption as the flax example and nanoT5 do it; `shift` adds decoder inputs (flax)."""

    def __init__(self, tokenizer, *, shift: bool):
        self.num_ids = len(tokenizer)
        self.eos_id, self.pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.shift = shift

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        tokens = np.array([example["input_ids"] for example in examples])
        mask = np.asarray([self.draw_mask(tokens.shape[1]) for _ in examples])
        inputs = self.keep(tokens, self.sentinels(mask.astype(np.int8)))
        labels = self.keep(tokens, self.sentinels((~mask).astype(np.int8)))
        assert inputs.shape[1] == INPUTS and labels.shape[1] == TARGETS
        batch = {"input_ids": inputs, "labels": labels}
        if self.shift:
            shifted = np.zeros_like(labels)
            shifted[:, 1:] = labels[:, :-1]
            shifted[:, 0] = self.pad_id
            batch["decoder_input_ids"] = np.where(shifted == -100, self.pad_id, shifted)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def draw_mask(self, length: int) -> np.ndarray:
        num_noise = min(max(int(np.round(length * DENSITY)), 1), length - 1)
        num_spans = max(int(np.round(num_noise / MEAN_SPAN)), 1)
        noise = self.segment_lengths(num_noise, num_spans)
        other = self.segment_lengths(length - num_noise, num_spans)
        lengths = np.stack([other, noise], axis=1).reshape(-1)
        begins = np.zeros(length, dtype=np.int8)
        begins[np.cumsum(lengths)[:-1]] = True
        return np.cumsum(begins) % 2 == 1

    @staticmethod
    def segment_lengths(num_items: int, num_segments: int) -> np.ndarray:
        is_border = np.arange(num_items - 1) < num_segments - 1
        np.random.shuffle(is_border)
        segment_of_item = np.cumsum(np.pad(is_border, [[1, 0]]))
        return np.unique(segment_of_item, return_counts=True)[1]

    def sentinels(self, mask: np.ndarray) -> np.ndarray:
        begins = mask - np.roll(mask, 1, axis=-1) * mask
        begins[:, 0] = mask[:, 0]
        numbers = np.where(begins != 0, np.cumsum(begins, axis=-1), begins)
        ids = np.where(numbers != 0, self.num_ids - numbers, 0)
        return ids - (mask - begins)

    def keep(self, tokens: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
        merged = np.where(sentinels != 0, sentinels, tokens)
        rows = merged[merged >= 0].reshape(len(tokens), -1)
        return np.concatenate([rows, np.full((len(rows), 1), self.eos_id)], axis=-1)


def nano_t5_collator(clone: Path, tokenizer) -> Callable:
    """The collator of a clone of nanoT5."""
    path = clone / "nanoT5" / "utils" / "copied_utils.py"
    module = sys.modules["copied_utils"] = ModuleType("copied_utils")
    # Names that the transformers of its time gave along with `import *`.
    vars(module).update(
        Union=typing.Union,
        Optional=typing.Optional,
        PaddingStrategy=PaddingStrategy,
        PreTrainedTokenizerBase=PreTrainedTokenizerBase,
    )
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    return module.DataCollatorForT5MLM(
        tokenizer=tokenizer,
        noise_density=DENSITY,
        mean_noise_span_length=MEAN_SPAN,
        input_length=INPUTS,
        target_length=TARGETS,
        pad_token_id=tokenizer.pad_token_id,
    )


def step_parser(description: str) -> argparse.ArgumentParser:
    """The flags of every benchmark that compares steps: whose, of which shape, how large."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--nano_t5", type=Path, help="a clone of nanoT5 to measure itself")
    parser.add_argument("--shape", default="t5-v1_1-small")
    parser.add_argument("--changes", default="", help="of the shape: num_layers=4,...")
    parser.add_argument("--batch", type=int, default=4)
    return parser


def command_of_way(*way: str) -> list[str]:
    """This program's own command for one way alone; the way stands last, where it is looked for
    before torch loads."""
    return [sys.executable, *sys.argv, "--way", *way]


def shape_changes(text: str) -> dict[str, int]:
    """Fields of the shape to change, as in num_layers=4,num_decoder_layers=4."""
    items = (item.partition("=") for item in text.split(",") if item)
    return {name: int(value) for name, _, value in items}


def spread(values: Sequence[float]) -> list[float]:
    """[least, median, most]."""
    return [min(values), statistics.median(values), max(values)]


def _additive_mask(stack: torch.nn.Module, mask: torch.Tensor, shape=None) -> torch.Tensor:
    """The padding of [batch, length], and in a decoder's own mask the future, as a large number."""
    seen = mask[:, None, None, :].float()
    if shape is not None and stack.is_decoder:
        length = shape[1]
        seen = seen * torch.ones((length, length), device=mask.device).tril()
    return (1 - seen) * torch.finfo(torch.float32).min
