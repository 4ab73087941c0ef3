"""Optimizers against nanoT5's recipe: the same small T5 v1.1, corpus, batches and steps.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py \\
        --train_file 'DIR/novels/*.txt,DIR/wikitext-2.validation.txt'

Four parts: a sweep of learning rates (600 steps, one seed), the runs (2,000 steps, three seeds; of
HALVED also whole runs of 1,000), the time of a step with the recipes taking turns, and nanoT5's
recipe with one thing changed. Runs go through `pre_train_t5.main`. A finished one is a line of
results/optimizers.jsonl and is not made again; the tables and optimizers_cpu_202611.svg come from
there. `--recipes default --seeds 2` makes some of them, so that several commands can share a
machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpu_process  # isort: skip  # noqa: E402, F401 (before torch)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from record import ROOT, append_row  # noqa: E402

import pre_train_t5  # noqa: E402
from model_t5 import load_tokenizer, make_model  # noqa: E402
from train_tokenizer_t5 import main as train_tokenizer  # noqa: E402
from trainer_t5 import T5Trainer  # noqa: E402

WORK = ROOT / "outputs" / "optimizers"
RESULTS = ROOT / "benchmarks" / "results" / "optimizers.jsonl"
RECORD = ROOT / "benchmarks" / "optimizers_cpu_202611.md"
SHAPE = "d_model=128,d_kv=32,d_ff=256,num_layers=2,num_heads=4"
COMMON = (
    *("--tokenizer_name", str(WORK / "tokenizer"), "--tokenized_dataset_dir", str(WORK / "tokens")),
    *("--input_seq_length", "64", "--per_device_train_batch_size", "16"),
    *("--max_validation_examples", "512", "--per_device_eval_batch_size", "128"),
    *("--save_strategy", "no", "--eval_steps", "125", "--logging_steps", "0.1"),
    *("--use_cpu", "--resume_from_checkpoint", "none", "--z_loss", "0", "--num_samples", "0"),
)
SCRATCH = ("--config_name", "t5-v1_1-small", "--config_overrides", SHAPE)
RANDOM = ("--initial_attention", "random")  # where a recipe says nothing else
SWEEP_STEPS, STEPS = 600, 2000
POINTS = (250, 500, 750, 1000, 1500, 2000)  # of the curve, in the table
SEEDS = (1, 2, 3)

# The flags of each recipe; {anchor} is a checkpoint whose head has a standard deviation of 1.
NANOT5 = (
    "--optim adamw_rms --learning_rate 0.02 --lr_scheduler_type cosine_warmup_with_min_lr "
    "--lr_scheduler_kwargs min_lr=1e-5,warmup_lr_rate=0.5 --warmup_steps 0.15"
)
COSINE = "--lr_scheduler_type cosine --warmup_steps 0.1"
LINEAR = "--lr_scheduler_type linear --warmup_steps 0.1"
CONSTANT = "--lr_scheduler_type constant --warmup_steps 0.1"
# Muon as its author has it: whole matrices, and one rate for all that is not one.
PLAIN = "--optim muon --optim_args per_head=False,head_scale=4"
SWEPT = {
    "muon": (f"{PLAIN} {COSINE}", (0.005, 0.01, 0.02)),
    "adamw_rms": (f"--optim adamw_rms {COSINE}", (0.02, 0.04, 0.08)),
    "t5_adafactor": (f"--optim t5_adafactor {COSINE}", (0.01, 0.02, 0.04, 0.08)),
    "schedule_free": (f"--optim schedule_free {CONSTANT}", (0.02, 0.04, 0.08)),
    "adamw_torch_fused": (f"--optim adamw_torch_fused {COSINE}", (0.0005, 0.001, 0.002)),
}
ANCHOR = "nanoT5"
DEFAULT = "default"
RECIPES = {
    ANCHOR: f"--model_name_or_path {{anchor}} {NANOT5}",
    DEFAULT: "",
    "muon, linear": f"{PLAIN} {LINEAR}",
    **{name: words for name, (words, _) in SWEPT.items()},
}
# Made in half the steps too, or only.
HALVED = {
    DEFAULT: RECIPES[DEFAULT],
    "muon, linear": RECIPES["muon, linear"],
    # Its head begins with a standard deviation of d_model^-0.5: a checkpoint would not be guided.
    "nanoT5, guided": f"{NANOT5} --initial_attention guided",
}
ALL = list(dict.fromkeys([*RECIPES, *HALVED]))
SWEPT_AS = {"muon, linear": "muon"}  # whose learning rates were tried
LEADING = (ANCHOR, DEFAULT, "muon, linear", "muon", "adamw_rms")  # first, with all their seeds
PARTS_OF_THE_GAIN = {
    **{ANCHOR: RECIPES[ANCHOR], "nanoT5, head of std d_model^-0.5": NANOT5},
    "t5_adafactor, T5's rsqrt": "--optim t5_adafactor",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--only", choices=["runs", "speed", "parts", "report"])
    parser.add_argument("--recipes", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    args = parser.parse_args()
    if args.only != "report":
        prepare(args.train_file)
    if args.only in (None, "runs"):
        leading = [name for name in LEADING if name in args.recipes]
        for names in (leading, [name for name in args.recipes if name not in LEADING]):
            sweep(names)
            for seed in args.seeds:
                run_all(names, seed=seed)
    if args.only in (None, "speed"):
        measure_speed(args.recipes)
    if args.only in (None, "parts"):
        for name, words in PARTS_OF_THE_GAIN.items():
            pre_train("parts", name, words, rate=None, seed=1, steps=SWEEP_STEPS)
    print_report()


def sweep(names: Sequence[str]) -> None:
    """Learning rates by 600 steps of one seed."""
    for name in names:
        words, rates = SWEPT.get(name, ("", ()))
        for rate in rates:
            pre_train("sweep", name, words, rate=rate, seed=1, steps=SWEEP_STEPS)


def run_all(names: Sequence[str], *, seed: int) -> None:
    """The runs of one seed; some recipes also in half the steps."""
    for name in names:
        rate = best_rate(name)
        if name in HALVED:
            pre_train("half", name, HALVED[name], rate=rate, seed=seed, steps=STEPS // 2)
        if name in RECIPES:
            pre_train("run", name, RECIPES[name], rate=rate, seed=seed, steps=STEPS)


# ---- runs ---------------------------------------------------------------------------------------


def prepare(train_file: str) -> None:
    """Tokenizer of 1,024 pieces and, for nanoT5's runs, checkpoints with its initial head."""
    global COMMON
    COMMON += ("--train_file", train_file)
    if not (WORK / "tokenizer" / "tokenizer.json").exists():
        folder = str(WORK / "tokenizer")
        train_tokenizer(
            ["--train_file", train_file, "--vocab_size", "1024", "--output_dir", folder]
        )
    tokenizer = load_tokenizer(str(WORK / "tokenizer"))
    for seed in SEEDS:
        if not anchor(seed).exists():
            shape = {"shape": "t5-v1_1-small", "config_overrides": SHAPE, "dropout_rate": 0.0}
            model = make_model(**shape, tokenizer=tokenizer, seed=seed)
            model.lm_head.weight.data *= model.config.d_model**0.5
            model.save_pretrained(anchor(seed))


def anchor(seed: int) -> Path:
    return WORK / f"head_of_std_1.seed_{seed}"


def words_of(words: str, *, rate: float | None, seed: int, steps: int) -> list[str]:
    """The command line of one run."""
    line = [word.format(anchor=anchor(seed)) for word in words.split()]
    if "--model_name_or_path" not in line:
        line = [*SCRATCH, *(RANDOM if words else ()), *line]
    if rate is not None:
        line += ["--learning_rate", str(rate)]
    return [*line, *COMMON, "--seed", str(seed), "--max_steps", str(steps)]


def pre_train(
    part: str, name: str, words: str, *, rate: float | None, seed: int, steps: int
) -> None:
    """One run and its held-out curve, unless it is in the results already."""
    key = {"part": part, "recipe": name, "rate": rate, "seed": seed, "steps": steps}
    if any(all(row.get(k) == v for k, v in key.items()) for row in rows()):
        return
    folder = WORK / f"{part}.{name}.{rate}.{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.perf_counter()
    with open(folder / "log.txt", "w") as log, contextlib.redirect_stdout(log):
        line = words_of(words, rate=rate, seed=seed, steps=steps)
        metrics = pre_train_t5.main([*line, "--output_dir", str(folder)])
    history = json.loads((folder / "log_history.json").read_text())
    curve = {
        entry["step"]: round(entry["eval_loss"], 4) for entry in history if "eval_loss" in entry
    }
    row = {"eval_loss": round(metrics["eval_loss"], 4), "curve": curve, "flags": words}
    row["seconds"] = round(time.perf_counter() - began)
    append_row("optimizers", key | row)
    print(json.dumps(key | {"eval_loss": row["eval_loss"], "seconds": row["seconds"]}), flush=True)


def rows() -> list[dict]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def best_rate(name: str) -> float | None:
    """The learning rate of the sweep with the lowest held-out loss; None: the recipe's own."""
    name = SWEPT_AS.get(name, name)
    swept = [row for row in rows() if row["part"] == "sweep" and row["recipe"] == name]
    return min(swept, key=lambda row: row["eval_loss"])["rate"] if swept else None


# ---- time ---------------------------------------------------------------------------------------


def measure_speed(names: Sequence[str], *, rounds: int = 8, block: int = 4) -> None:
    """Milliseconds of processor time per step, the recipes taking turns; medians over rounds.

    With one thread this is the time of a step on a quiet machine, whatever else runs.
    """
    timed = [ANCHOR, *(name for name in names if name in RECIPES and name != ANCHOR)]
    steps = {name: stepper(name, RECIPES[name]) for name in timed}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            for _ in range(block):
                step()
            if turn:  # the first round allocates
                seconds[name].append((time.process_time() - began) / block)
    base = seconds[ANCHOR]
    for name, times in seconds.items():
        ratios = [mine / its for mine, its in zip(times, base, strict=True)]
        row = {"part": "speed", "recipe": name, "rounds": rounds, "block": block}
        row["ms_per_step"] = round(1000 * statistics.median(times), 1)
        row["relative"] = round(statistics.median(ratios), 3)
        append_row("optimizers", row)


class Built(Exception):
    """Carries a trainer out of `pre_train_t5.main` before it trains."""


def stepper(name: str, words: str):
    """A function that makes one training step of the recipe, on one fixed batch."""

    def leave(trainer: T5Trainer, **_) -> None:
        raise Built(trainer)

    line = words_of(words, rate=best_rate(name), seed=1, steps=STEPS)
    original, T5Trainer.run = T5Trainer.run, leave
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            pre_train_t5.main([*line, "--output_dir", str(WORK / "run")])
    except Built as built:
        (trainer,) = built.args
    finally:
        T5Trainer.run = original
    precision = "bf16" if trainer.args.bf16 else "no"
    Accelerator(cpu=trainer.args.use_cpu, mixed_precision=precision)  # main() took its state along
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.create_optimizer_and_scheduler(STEPS)
    loader = iter(trainer.get_train_dataloader())
    (batch,), num_targets = trainer.get_batch_samples(loader, 1, trainer.args.device)

    def step() -> None:
        trainer.training_step(trainer.model, dict(batch), num_items_in_batch=num_targets)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


# ---- tables -------------------------------------------------------------------------------------


def print_report() -> None:
    """The sweep, then the runs at equal steps and in equal time, as Markdown."""
    found = rows()
    print(f"\n| optimizer | learning rate: loss after {SWEEP_STEPS} steps |\n|---|---|")
    for name in SWEPT:
        mine = [row for row in found if (row["part"], row["recipe"]) == ("sweep", name)]
        losses = [f"{row['rate']:g}: {row['eval_loss']:.3f}" for row in mine]
        print(f"| {name} | {', '.join(losses)} |")
    for row in found:
        if row["part"] == "parts":
            print(f"| {row['recipe']} | {row['eval_loss']:.3f} |")
    speed = {row["recipe"]: row for row in found if row["part"] == "speed"}
    runs = {
        name: [r for r in found if (r["part"], r["recipe"]) == ("run", name)] for name in RECIPES
    }
    goals = {row["seed"]: row["eval_loss"] for row in runs[ANCHOR]}
    head = " | ".join(f"{point:,}" for point in POINTS)
    print(f"\n| recipe | lr | n | {head} | steps to nanoT5's end | ms/step | in equal time |")
    print("|---|---|---|" + "---|" * (len(POINTS) + 3))
    for name, mine in runs.items():
        mine = [row for row in mine if row["seed"] in goals]
        if not mine:
            continue
        rate = mine[0]["rate"]
        cells = [name, "its own" if rate is None else f"{rate:g}", str(len(mine))]
        cells += [spread([loss_at(row["curve"], point) for row in mine]) for point in POINTS]
        reached = [steps_to(row["curve"], goals[row["seed"]]) for row in mine]
        cells.append("not reached" if None in reached else spread(reached, digits=0))
        if name in speed:
            relative = speed[name]["relative"]
            cells.append(f"{speed[name]['ms_per_step']} ({relative:.2f}x)")
            cells.append(spread([loss_at(row["curve"], STEPS / relative) for row in mine]))
        print("| " + " | ".join(cells) + " |")
    for name in HALVED:
        half = [r for r in found if (r["part"], r["recipe"]) == ("half", name)]
        if half:
            curve = ", ".join(
                f"{point:,}: {spread([loss_at(row['curve'], point) for row in half])}"
                for point in POINTS
                if point <= STEPS // 2
            )
            print(f"\n{name}, whole runs of {STEPS // 2:,} steps (n={len(half)}): {curve}")
    draw(runs, found)


def draw(runs: dict[str, list[dict]], found: list[dict]) -> None:
    """The mean curves over seeds, and those of the half runs, as a picture beside the record."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    lines = dict(runs)
    for name in HALVED:
        half = [r for r in found if (r["part"], r["recipe"]) == ("half", name)]
        lines[f"{name}, whole run of {STEPS // 2:,}"] = half
    for name, mine in lines.items():
        if mine:
            steps = [step for step, _ in points_of(mine[0]["curve"])]
            means = [statistics.mean(loss_at(row["curve"], step) for row in mine) for step in steps]
            style = {"color": "black", "linewidth": 2.5} if name == ANCHOR else {}
            axes.plot(steps, means, label=name, **style)
    axes.set(xlabel="optimizer steps", ylabel="held-out nats per target token", ylim=(3.5, 4.4))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(RECORD.with_suffix(".svg"), metadata={"Date": None})


def spread(values: list[float], digits: int = 3) -> str:
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


def loss_at(curve: dict[str, float], step: float) -> float:
    """The held-out loss at a step, on the line between its neighbours; at most the last one's."""
    for (left, before), (right, after) in itertools.pairwise(points_of(curve)):
        if left <= step <= right:
            return before + (after - before) * (step - left) / (right - left)
    return points_of(curve)[-1][1]


def steps_to(curve: dict[str, float], goal: float) -> float | None:
    """Where the line through the curve's points first comes down to a loss."""
    for (left, before), (right, after) in itertools.pairwise(points_of(curve)):
        if after <= goal:
            return left + (right - left) * (before - goal) / (before - after)
    return None


def points_of(curve: dict[str, float]) -> list[tuple[int, float]]:
    return [(int(step), loss) for step, loss in curve.items()]


if __name__ == "__main__":
    main()
