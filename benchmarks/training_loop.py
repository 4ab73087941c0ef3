"""The whole training loop at 512/114 in bfloat16: this project's, the stock Trainer's, nanoT5's.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py --nano_t5 CLONE
    python benchmarks/training_loop.py --shape t5-v1_1-base --batch 128 --steps 30   # on a GPU

All that a step costs counts: fetching and corrupting windows of 568 tokens, collation, the step,
clipping, the optimizer, logging. The time of a step is that between two ends of a step, in nanoT5's
loop between two calls of the collator; the first two of a run are left out. Runs of so many steps
take turns, each in a process of its own with a model of the same weights; only ours has what this
project sets for a process (cpu_process.py). Ratios are taken within a turn, of processor seconds on
a CPU, of seconds on a GPU.
The stock Trainer has the algorithm of the flax example's collator and its default optimizer;
nanoT5 is a clone's own model, collator, optimizer and loop; ours is what pre_train_t5.py does with
nanoT5's optimizer (--optim adamw_rms).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if sys.argv[-1] == "ours":
    import cpu_process  # isort: skip  # noqa: F401 (before torch)

import contextlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from record import append_row  # noqa: E402
from references import (  # noqa: E402
    LoopCollator,
    Words,
    command_of_way,
    nano_t5_collator,
    nano_t5_model,
    nano_t5_module,
    nano_t5_optimizer,
    our_model,
    shape_changes,
    spread,
    step_parser,
    stock_model,
)
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from arguments_t5 import PreTrainingFlags  # noqa: E402
from data_collator_t5 import PreTrainingCollator, WindowBatch  # noqa: E402
from flags import parse_flags  # noqa: E402
from objective_mixtures import make_objective  # noqa: E402
from trainer_t5 import T5Trainer  # noqa: E402

RAW, LEARNING_RATE, WARM_UP = 568, 1e-2, 2


class Windows(Dataset):
    """Random tokens, read from a table as ours are from a file; rows for the others."""

    def __init__(self, num_windows: int):
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(3, 32000, size=(num_windows, RAW)).astype(np.uint16)

    def __len__(self) -> int:
        return len(self.tokens)


class WholeBatches(Windows):
    def __getitems__(self, keys: list[int]) -> WindowBatch:
        epochs, examples = np.divmod(np.array(keys), len(self))
        return WindowBatch(self.tokens[examples], epochs, examples)


class Rows(Windows):
    def __getitem__(self, key: int) -> dict:
        return {"input_ids": self.tokens[key].astype(np.int64)}


class StepEnds(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.times = clock, []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(self.clock())


class Timed:
    """A collator that notes when it is called."""

    def __init__(self, collate: Callable, *, clock: Callable[[], float]):
        self.collate, self.clock, self.times = collate, clock, []

    def __call__(self, examples):
        self.times.append(self.clock())
        return self.collate(examples)


def run_ours(flags, *, folder: str, clock, model) -> list[float]:
    (args,) = parse_flags(
        (PreTrainingFlags,),
        [
            *("--output_dir", folder, "--max_steps", str(flags.steps), "--logging_steps", "10"),
            *("--per_device_train_batch_size", str(flags.batch), "--optim", "adamw_rms"),
            *("--learning_rate", str(LEARNING_RATE), "--eval_strategy", "no"),
            *("--save_strategy", "no", "--resume_from_checkpoint", "none", "--bf16", "True"),
            *("--do_eval", "False", "--compile", flags.compile, "--z_loss", "0"),
        ],
    )
    objective = make_objective(
        "span_corruption",
        input_length_tokens=512,
        settings={"mlm_probability": 0.15, "mean_noise_span_length": 3.0},
        extras={"units": None},
    )
    collate = PreTrainingCollator(
        objective=objective,
        sentinels=range(32099, 31999, -1),
        **{"pad_id": 0, "eos_id": 1, "start_id": 0, "seed": 0},
    )
    data, ends = WholeBatches(flags.batch * flags.steps), StepEnds(clock)
    trainer = T5Trainer(model=model, args=args, data_collator=collate, train_dataset=data)
    trainer.add_callback(ends)
    trainer.train()
    return ends.times


def run_stock(flags, *, folder: str, clock, model) -> list[float]:
    args = TrainingArguments(
        output_dir=folder,
        max_steps=flags.steps,
        per_device_train_batch_size=flags.batch,
        bf16=True,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        torch_compile=flags.compile == "blocks",
    )
    corrupt = LoopCollator(Words(), shift=True)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        return {
            name: values if torch.is_tensor(values) else torch.from_numpy(np.asarray(values))
            for name, values in corrupt(rows).items()
        }

    data, ends = Rows(flags.batch * flags.steps), StepEnds(clock)
    trainer = Trainer(model=model, args=args, data_collator=collate, train_dataset=data)
    trainer.add_callback(ends)
    trainer.train()
    return ends.times


def run_nano_t5(flags, *, folder: str, clock, model) -> list[float]:
    timed = Timed(nano_t5_collator(flags.nano_t5, Words()), clock=clock)
    data = DataLoader(
        Rows(flags.batch * (flags.steps + WARM_UP)), batch_size=flags.batch, collate_fn=timed
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    optimizer = nano_t5_optimizer(flags.nano_t5, model, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    prepared = accelerator.prepare(model, optimizer, schedule, data)
    model, optimizer, schedule, data = prepared
    if flags.compile == "blocks":
        model = torch.compile(model)
    never = SimpleNamespace(every_steps=10**9)
    args = SimpleNamespace(
        current_train_step=1,
        current_epoch=1,
        last_log=time.time(),
        mode="pt",
        optim=SimpleNamespace(total_steps=flags.steps, grad_acc=1, grad_clip=1.0),
        logging=SimpleNamespace(every_steps=100, grad_l2=True, weights_l2=True),  # its defaults
        eval=never,
        checkpoint=never,
    )
    logger = SimpleNamespace(log_stats=lambda **stats: None)
    loop = nano_t5_module(flags.nano_t5, "train_utils")
    loop.maybe_eval_predict = loop.maybe_save_checkpoint = lambda *args: None
    loop.train(model, data, None, accelerator, schedule, optimizer, logger, args, None)
    return timed.times


WAYS = {
    "nanoT5": (run_nano_t5, lambda flags, **rest: nano_t5_model(flags.nano_t5, **rest)),
    "stock": (run_stock, lambda flags, **rest: stock_model(**rest)),
    "ours": (
        run_ours,
        lambda flags, **rest: our_model(use_cpu=not torch.cuda.is_available(), **rest),
    ),
}


def step_seconds(way: str, flags) -> list[float]:
    """Of each step of a run in this process but the first ones."""
    run, make = WAYS[way]
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    model = make(flags, shape=flags.shape, **shape_changes(flags.changes))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        times = run(flags, folder=folder, clock=clock, model=model)
    return np.diff(times[: flags.steps + 1])[WARM_UP:].tolist()


def in_own_process(way: str) -> list[float]:
    return json.loads(subprocess.check_output(command_of_way(way), text=True).splitlines()[-1])


def main() -> None:
    parser = step_parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="of a run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", default="none", choices=["none", "blocks"])
    parser.add_argument("--way", choices=list(WAYS), help="one run of this one alone")
    flags = parser.parse_args()
    if flags.way:
        print(json.dumps(step_seconds(flags.way, flags)))
        return
    ways = [way for way in WAYS if way != "nanoT5" or flags.nano_t5]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(flags.turns):
        for way in ways:
            seconds[way].append(statistics.median(in_own_process(way)))
    base = next(iter(ways))
    print(f"{flags.shape} {flags.changes} batch {flags.batch}, compile {flags.compile}")
    for name in ways:
        ratios = spread([a / b for a, b in zip(seconds[base], seconds[name], strict=True)])
        row = {
            "way": name,
            "against": base,
            "shape": flags.shape,
            "changes": flags.changes,
            "batch": flags.batch,
            "compile": flags.compile,
            "steps": flags.steps,
            "turns": flags.turns,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "seconds_min_median_max": spread(seconds[name]),
            "ratio_min_median_max": ratios,
        }
        append_row("training_loop", row)
        low, middle, high = ratios
        print(f"{name:<8}{statistics.median(seconds[name]):>8.3f} s  "
              f"{low:.2f}x {middle:.2f}x {high:.2f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
