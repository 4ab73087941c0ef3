"""A training step of T5 v1.1 at 512/114 in bfloat16: ours beside the stock model's and nanoT5's.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py --nano_t5 CLONE
    python benchmarks/training_step.py --shape t5-v1_1-base --batch 128 --compiled   # on a GPU

A step is forward, loss, backward, clipping and the optimizer, under autocast, on one fixed batch.
All ways start from the same weights and take turns within each round; ratios are taken within a
round, of processor seconds on a CPU, where other processes then disturb them less, and of seconds
on a GPU. On a CPU each way has a process of its own, and only ours has what this project sets for
a process (cpu_process.py). On a GPU all are there at once; the stock model's step with 128 examples
takes 84 GB there, so a card of 80 GB wants `--batch 64`. `ours` and nanoT5 have the same optimizer,
so that their losses must stay together; the stock model has the Trainer's default, AdamW, fused.
Compiled, ours compiles block by block, the others as a whole, as they do it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if sys.argv[-1].startswith("ours"):
    import cpu_process  # isort: skip  # noqa: F401 (before torch)

import argparse  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from record import append_row  # noqa: E402
from references import (  # noqa: E402
    INPUTS,
    TARGETS,
    command_of_way,
    config_of,
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

LEARNING_RATE = 1e-2
COMPILED = ", compiled"


class Way:
    """A model with its optimizer; `loss_of(model, batch)` gives what is stepped on."""

    def __init__(self, model, optimizer, loss_of: Callable, *, run: Callable | None = None):
        self.model, self.optimizer, self.loss_of = model, optimizer, loss_of
        self.run = model if run is None else run

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Seconds and loss of a step; the loss is waited for, as nanoT5 does in each step."""
        device = batch["labels"].device.type
        clock = time.process_time if device == "cpu" else time.perf_counter
        started = clock()
        with torch.autocast(device, torch.bfloat16):
            loss = self.loss_of(self, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - started, value


class OwnProcess:
    """A way in a process of its own, which makes a step for each line it reads."""

    def __init__(self, name: str):
        self.process = subprocess.Popen(
            command_of_way(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        seconds, loss = json.loads(self.process.stdout.readline())
        return seconds, loss


def serve(way: Way, batch: dict[str, torch.Tensor]) -> None:
    """The other end of it."""
    for _ in sys.stdin:
        print(json.dumps(way.step(batch)), flush=True)


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


def make_way(name: str, flags: argparse.Namespace, device: str) -> Way:
    changes = shape_changes(flags.changes)
    compiled = name.endswith(COMPILED)
    whole = torch.compile if compiled else lambda model: model
    if name.startswith("nanoT5"):
        model = nano_t5_model(flags.nano_t5, flags.shape, **changes).to(device)
        optimizer = nano_t5_optimizer(flags.nano_t5, model, lr=LEARNING_RATE)
        return Way(model, optimizer, loss_of_model, run=whole(model))
    if name.startswith("stock"):
        model = stock_model(flags.shape, **changes).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        return Way(model, optimizer, loss_of_model, run=whole(model))
    model = our_model(
        flags.shape, use_cpu=device == "cpu", attention=flags.attn_implementation, **changes
    ).to(device)
    if compiled:
        compile_blocks(model)
    return Way(model, RmsScaledAdamW(model.parameters(), lr=LEARNING_RATE), loss_in_chunks)


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
    parser.add_argument("--way", help="only this one, a step for each line of standard input")
    flags = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = make_batch(flags.batch, device=device)
    if flags.way:
        serve(make_way(flags.way, flags, device), batch)
        return
    peers = ["nanoT5", "stock"] if flags.nano_t5 else ["stock"]
    names = [*peers, "ours"]
    names += [name + COMPILED for name in names] if flags.compiled else []
    make = OwnProcess if device == "cpu" else lambda name: make_way(name, flags, device)
    ways = {name: make(name) for name in names}
    seconds, losses = {name: [] for name in ways}, {name: [] for name in ways}
    for _ in range(flags.rounds + 1):  # the first is warm-up, and compiles
        for name, way in list(ways.items()):
            try:
                took, loss = way.step(batch)
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory, left out", flush=True)
                del ways[name], seconds[name], losses[name]
                continue
            seconds[name].append(took)
            losses[name].append(loss)
    report(flags, seconds=seconds, losses=losses, device=device)


def report(flags, *, seconds: dict[str, list], losses: dict[str, list], device: str) -> None:
    """The table, and a row of results for each way."""
    config = config_of(flags.shape, **shape_changes(flags.changes))
    flops = training_flops(
        config, num_examples=flags.batch, input_tokens=INPUTS, target_tokens=TARGETS
    )
    device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = peak_flops(device_name)
    unit = "processor s" if device == "cpu" else "s"
    print(f"{flags.shape} {flags.changes} batch {flags.batch}, {torch.get_num_threads()} threads")
    for name, (first, *times) in seconds.items():
        base = "nanoT5" if flags.nano_t5 else "stock"
        base += COMPILED if name.endswith(COMPILED) else ""
        base = base if base in seconds else name  # it was left out
        ratios = spread([a / b for a, b in zip(seconds[base][1:], times, strict=True)])
        middle = statistics.median(times)
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
                "seconds_min_median_max": spread(times),
                "first_step_seconds": first,
                "ratio_min_median_max": ratios,
                "first_loss": losses[name][0],
                "largest_loss_gap": gap,
                "mfu_percent": 100 * flops / middle / peak if peak else None,
            },
        )
        low, median, high = ratios
        print(
            f"{name:<18}{middle:>8.3f} {unit}  {low:.2f}x {median:.2f}x {high:.2f}x  "
            f"first step {first:.1f}  loss {losses[name][0]:.4f}, gap {gap:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
