"""A training step of T5 v1.1 at 512/114 in bfloat16: ours beside the stock model's and nanoT5's.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py --nano_t5 CLONE
    python benchmarks/training_step.py --shape t5-v1_1-base --batch 128 --compiled   # on a GPU

A step is forward, loss, backward, clipping and the optimizer, under autocast, on one fixed batch.
All ways start from the same weights and take turns within each round; ratios are taken within a
round, of processor seconds on a CPU, where other processes then disturb them less, and of seconds
on a GPU. `ours` and nanoT5 have the same optimizer, so that their losses must stay together; the
stock model has the Trainer's default, AdamW, fused. Compiled, ours compiles block by block, the
others as a whole, as they do it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpu_threads  # isort: skip  # noqa: E402, F401 (before torch)

import argparse  # noqa: E402
import functools  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from record import append_row  # noqa: E402
from references import (  # noqa: E402
    nano_t5_model,
    nano_t5_optimizer,
    our_model,
    shape_changes,
    spread,
    step_parser,
    stock_model,
)

from compiled_blocks_t5 import compile_blocks  # noqa: E402
from flops_t5 import peak_flops, training_flops  # noqa: E402
from loss_t5 import answering_with, summed_loss  # noqa: E402
from optimizer_t5 import RmsScaledAdamW  # noqa: E402

INPUTS, TARGETS, LEARNING_RATE = 512, 114, 1e-2


class Way:
    """A model with its optimizer; `loss_of(model, batch)` gives what is stepped on."""

    def __init__(self, model, optimizer, loss_of: Callable, *, run: Callable | None = None):
        self.model, self.optimizer, self.loss_of = model, optimizer, loss_of
        self.run = model if run is None else run

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One step; its loss, for which nanoT5 waits in each step and the others here too."""
        with torch.autocast(batch["labels"].device.type, torch.bfloat16):
            loss = self.loss_of(self, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def loss_in_chunks(way: Way, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Ours: from the states, per target token."""
    answer = functools.partial(summed_loss, labels=batch["labels"])
    inputs = {name: batch[name] for name in ("input_ids", "decoder_input_ids")}
    with answering_with(way.model, answer):
        return way.run(**inputs).logits[0] / batch["labels"].numel()


def loss_of_model(way: Way, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model returns for labels."""
    inputs = {name: batch[name] for name in ("input_ids", "labels")}
    return way.run(**inputs).loss


def make_ways(flags: argparse.Namespace, device: str) -> dict[str, Way]:
    changes = shape_changes(flags.changes)
    ways = {}
    for compiled in (False, True) if flags.compiled else (False,):
        mark = ", compiled" if compiled else ""
        whole = torch.compile if compiled else lambda model: model
        if flags.nano_t5:
            model = nano_t5_model(flags.nano_t5, flags.shape, **changes).to(device)
            optimizer = nano_t5_optimizer(flags.nano_t5, model, lr=LEARNING_RATE)
            ways["nanoT5" + mark] = Way(model, optimizer, loss_of_model, run=whole(model))
        model = stock_model(flags.shape, **changes).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ways["stock" + mark] = Way(model, optimizer, loss_of_model, run=whole(model))
        model = our_model(
            flags.shape, use_cpu=device == "cpu", attention=flags.attn_implementation, **changes
        ).to(device)
        if compiled:
            compile_blocks(model)
        optimizer = RmsScaledAdamW(model.parameters(), lr=LEARNING_RATE)
        ways["ours" + mark] = Way(model, optimizer, loss_in_chunks)
    return ways


def make_batch(num_examples: int, *, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(3, 32000, (num_examples, INPUTS), generator=generator)
    labels = torch.randint(3, 32000, (num_examples, TARGETS), generator=generator)
    started = torch.zeros_like(labels)
    started[:, 1:] = labels[:, :-1]
    batch = {"input_ids": inputs, "labels": labels, "decoder_input_ids": started}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def main() -> None:
    parser = step_parser(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="the compiled ways as well")
    parser.add_argument("--attn_implementation", default="auto", help="ours")
    flags = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = time.process_time if device == "cpu" else time.perf_counter
    ways, batch = make_ways(flags, device), make_batch(flags.batch, device=device)
    first, seconds, losses = {}, {name: [] for name in ways}, {name: [] for name in ways}
    for turn in range(flags.rounds + 1):  # the first is warm-up, and compiles
        for name, way in ways.items():
            started = clock()
            losses[name].append(way.step(batch))
            if turn:
                seconds[name].append(clock() - started)
            else:
                first[name] = clock() - started
    report(flags, ways, first=first, seconds=seconds, losses=losses, device=device)


def report(flags, ways, *, first, seconds, losses, device) -> None:
    """The table, and a row of results for each way."""
    config = next(iter(ways.values())).model.config
    flops = training_flops(
        config, num_examples=flags.batch, input_tokens=INPUTS, target_tokens=TARGETS
    )
    device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = peak_flops(device_name)
    unit = "processor s" if device == "cpu" else "s"
    print(f"{flags.shape} {flags.changes} batch {flags.batch}, {torch.get_num_threads()} threads")
    for name in ways:
        mark = ", compiled" if name.endswith(", compiled") else ""
        base = ("nanoT5" if flags.nano_t5 else "stock") + mark
        ratios = spread([a / b for a, b in zip(seconds[base], seconds[name], strict=True)])
        middle = statistics.median(seconds[name])
        gap = max(abs(a - b) for a, b in zip(losses[base], losses[name], strict=True))
        append_row(
            "training_step",
            {
                "way": name,
                "against": base,
                "shape": flags.shape,
                "changes": flags.changes,
                "batch": flags.batch,
                "threads": torch.get_num_threads(),
                "device": device_name,
                "rounds": flags.rounds,
                "seconds_min_median_max": spread(seconds[name]),
                "first_step_seconds": first[name],
                "ratio_min_median_max": ratios,
                "first_loss": losses[name][0],
                "largest_loss_gap": gap,
                "mfu_percent": 100 * flops / middle / peak if peak else None,
            },
        )
        low, median, high = ratios
        print(
            f"{name:<18}{middle:>8.3f} {unit}  {low:.2f}x {median:.2f}x {high:.2f}x  "
            f"first step {first[name]:.1f}  loss {losses[name][0]:.4f}, gap {gap:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
