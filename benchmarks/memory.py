"""Batch size in the same memory: T5 at 512/114 in bfloat16, ours beside the stock Trainer's step.

    python benchmarks/memory.py                        # counted, on a CPU: seconds for T5-base
    python benchmarks/memory.py --shape t5-v1_1-large  # on a GPU: measured, step by step
    python benchmarks/memory.py --real 8,16            # on a CPU: steps of a stock and our batch

Without a GPU a step is run on tensors that have a shape and no contents, and the bytes alive at
each moment are counted (plan_t5.py, held to the profiler by tests/test_plan_t5.py). With one, real
steps are made and the allocator is asked. AdamW's two averages are added to both. Every batch of
the stock step gives an amount of memory; the row says how many examples the others fit into it.

With --real two steps with AdamW are made, of the stock way with the first number of examples and of
ours, with and without activation checkpointing, with the second one; each in a process of its own,
whose resident set is read at its largest. Only ours has what this project sets for a process
(cpu_process.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if sys.argv[-1].startswith("ours"):
    import cpu_process  # isort: skip  # noqa: F401 (before torch)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import functools  # noqa: E402
import gc  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from accelerate.utils import convert_outputs_to_fp32  # noqa: E402
from record import append_row  # noqa: E402
from references import (  # noqa: E402
    INPUTS,
    TARGETS,
    command_of_way,
    our_model,
    shape_changes,
    stock_model,
)
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from loss_t5 import answering_with, summed_loss  # noqa: E402
from plan_t5 import ADAM_BYTES, LiveBytes  # noqa: E402
from progress_t5 import peak_memory_gb  # noqa: E402


def stock_loss(model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The library's model makes all logits and their loss, accelerate a float32 copy of them."""
    context = torch.autocast(inputs.device.type, torch.bfloat16)
    return convert_outputs_to_fp32(context(model.forward))(input_ids=inputs, labels=labels).loss


def our_loss(model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss in chunks."""
    answer = functools.partial(summed_loss, labels=labels, z_loss=1e-4)
    with torch.autocast(inputs.device.type, torch.bfloat16), answering_with(model, answer):
        return model(input_ids=inputs, decoder_input_ids=labels).logits[0]


def make_way(name: str, *, shape: str, changes: dict, use_cpu: bool) -> tuple[object, Callable]:
    """(model, loss) of a way."""
    if name.startswith("stock"):
        model, loss = stock_model(shape, **changes), stock_loss
    else:
        model, loss = our_model(shape, use_cpu=use_cpu, **changes), our_loss
    if name.endswith("checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, loss


def peak_bytes(model, loss: Callable, num_examples: int) -> int:
    """Most that a step holds at once, parameters and AdamW's averages included."""
    device = next(model.parameters()).device
    number = sum(p.numel() for p in model.parameters())
    inputs = torch.ones((num_examples, INPUTS), dtype=torch.long, device=device)
    labels = torch.ones((num_examples, TARGETS), dtype=torch.long, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        loss(model, inputs, labels).backward()
        model.zero_grad()
        return torch.cuda.max_memory_allocated() + ADAM_BYTES * number
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        loss(model, inputs, labels).backward()
    model.zero_grad()
    return live.peak + (4 + ADAM_BYTES) * number


def most_examples(peak: Callable[[int], int], *, budget: int, begin: int) -> int:
    """The largest batch whose peak is within the budget, found along straight lines."""
    low, at_low = begin, peak(begin)
    if at_low > budget:
        return 0
    high, at_high = 2 * begin, peak(2 * begin)
    while abs(high - low) > 1:
        guess = low + int((budget - at_low) * (high - low) / (at_high - at_low))
        if guess == low or guess == high:
            break
        if at_high <= budget:
            low, at_low = high, at_high
        high, at_high = guess, peak(guess)
    while at_high > budget:
        high -= 1
        at_high = peak(high)
    return high


def resident_peak_gb(name: str, num_examples: int, *, shape: str, changes: dict) -> float:
    """The resident set of this process at its largest, over two steps on its CPU."""
    model, loss = make_way(name, shape=shape, changes=changes, use_cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, labels = (
        torch.randint(3, model.config.vocab_size, (num_examples, length))
        for length in (INPUTS, TARGETS)
    )
    for _ in range(2):
        loss(model, inputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peak_memory_gb(torch.device("cpu"))


def compare_resident(flags) -> None:
    """A stock batch and ours, for real."""
    few, many = map(int, flags.real.split(","))
    found = {}
    for name, batch in (
        ("stock", few),
        ("stock, activation checkpointing", few),
        ("ours", many),
        ("ours, activation checkpointing", many),
    ):
        printed = subprocess.check_output(command_of_way(str(batch), name), text=True)
        found[name] = float(printed.splitlines()[-1])
        row = {"way": name, "shape": flags.shape, "changes": flags.changes, "device": "cpu"}
        row |= {"examples": batch, "resident_gb": found[name]}
        append_row("memory", {**row, "ratio_to_stock": found[name] / found["stock"]})
        print(f"{name:<32} {batch:>5} examples in {found[name]:>6.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="t5-v1_1-base")
    parser.add_argument("--changes", default="", help="of the shape: num_layers=4,...")
    parser.add_argument("--batches", default="8,64", help="of the stock step")
    parser.add_argument("--real", help="examples of a stock step, examples of ours, on a CPU")
    parser.add_argument("--way", nargs=2, help="of --real: this number of examples, this way alone")
    flags = parser.parse_args()
    if flags.way:
        batch, name = flags.way
        of_model = {"shape": flags.shape, "changes": shape_changes(flags.changes)}
        print(resident_peak_gb(name, int(batch), **of_model))
        return
    if flags.real:
        compare_resident(flags)
        return
    use_cpu = not torch.cuda.is_available()
    names = ("stock", "stock, activation checkpointing", "ours", "ours, activation checkpointing")
    budgets: dict[int, int] = {}
    print(f"{flags.shape} {flags.changes} on {'shapes alone' if use_cpu else 'a GPU'}")
    for name in names:
        model = peak = None
        gc.collect()  # or the model before would count
        with FakeTensorMode() if use_cpu else contextlib.nullcontext():
            settings = {"changes": shape_changes(flags.changes), "use_cpu": use_cpu}
            model, loss = make_way(name, shape=flags.shape, **settings)
            model = model if use_cpu else model.cuda()
            peak = functools.partial(peak_bytes, model, loss)
            for batch in map(int, flags.batches.split(",")):
                budgets.setdefault(batch, peak(batch))
                fitting = batch
                if name != "stock":
                    fitting = most_examples(peak, budget=budgets[batch], begin=batch)
                row = {
                    "way": name,
                    "shape": flags.shape,
                    "changes": flags.changes,
                    "device": "counted" if use_cpu else torch.cuda.get_device_name(),
                    "memory_gb": budgets[batch] / 1e9,
                    "stock_examples": batch,
                    "examples": fitting,
                    "ratio": fitting / batch,
                }
                append_row("memory", row)
                print(
                    f"{name:<32} in {row['memory_gb']:>6.2f} GB {fitting:>5} examples  "
                    f"{row['ratio']:.2f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
