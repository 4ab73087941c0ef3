"""Examples per second of evaluating a classification task, by how answers are found.

    .venv/bin/python benchmarks/evaluation.py --examples 96 --repeats 3

Beams of 4 and 64 tokens (what the original scripts did), beams and greed as long as the labels
need, and the label words scored in one pass, on an untrained model and on one trained for 60 steps
to write label words. T5 v1.1 of 4 + 4 layers and d_model 256, one thread; the ways take turns, and
ratios of processor seconds are taken within a turn. The loss must be the same for every way.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from record import append_row

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from answers_t5 import Answering, mean_scores  # noqa: E402
from flags import parse_flags  # noqa: E402
from model_t5 import load_tokenizer, make_model  # noqa: E402
from task_rows_t5 import TaskDataset  # noqa: E402
from task_sets_t5 import TaskSets, answering_of, generation_settings, score_answers  # noqa: E402
from tasks import find_task  # noqa: E402
from train_batches_t5 import TaskCollator  # noqa: E402
from train_tokenizer_t5 import train_tokenizer  # noqa: E402
from trainer_t5 import T5Trainer  # noqa: E402
from training_arguments_t5 import FineTuningArguments  # noqa: E402

BEAMS = {"num_beams": 4, "length_penalty": 0.6}
WORDS = "the a film is was good bad dull fine and or but very quite never plot actor scene".split()


def make_rows(num_rows: int) -> list[dict]:
    """Sentences of 5 to 60 words, labelled at random."""
    rng = random.Random(0)
    return [
        {"sentence": " ".join(rng.choices(WORDS, k=rng.randint(5, 60))), "label": rng.randint(0, 1)}
        for _ in range(num_rows)
    ]


def measure(trainer: T5Trainer, data: TaskDataset, ways: dict[str, Answering]) -> dict:
    """{way: (seconds, loss)} of one evaluation with each."""
    found = {}
    for way, answering in ways.items():
        data.answering = answering
        started = time.process_time()
        metrics = trainer.evaluate(data)
        found[way] = (time.process_time() - started, metrics["eval_loss"])
        assert abs(mean_scores(trainer.answers["eval"])["loss"] - metrics["eval_loss"]) < 1e-9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    rows = make_rows(400)
    texts = [row["sentence"] for row in rows] + ["sst2 sentence: positive negative"] * 50
    train_tokenizer(texts, output_dir=folder / "tokenizer", vocab_size=115, num_threads=1)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    task = find_task("glue", "sst2")
    lengths = {"input_length_tokens": 128, "target_length_tokens": 64}
    training, data = (
        TaskDataset(part, task=task, tokenizer=tokenizer, **lengths)
        for part in (rows, rows[: flags.examples])
    )
    sets = TaskSets(task, task.name, {"validation": data})
    of_task = {"tokenizer": tokenizer, "most_tokens": 64}
    ways = {
        "4 beams, 64 tokens": Answering(generation=generation_settings(64, beams=BEAMS)),
        "4 beams": answering_of(sets, "generate", beams=BEAMS, **of_task),
        "greedy": answering_of(sets, "generate", **of_task),
        "rank": answering_of(sets, "rank", **of_task),
    }
    words = ["--use_cpu", "--bf16", "False", "--output_dir", str(folder / "out"), "--disable_tqdm"]
    words += ["--optim", "adamw_rms", "--learning_rate", "0.02", "--max_steps", "60"]
    words += ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "32"]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end=False"]
    (args,) = parse_flags((FineTuningArguments,), words)
    model = make_model(
        shape="t5-v1_1-small",
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=0,
        config_overrides="d_model=256,d_kv=32,d_ff=512,num_layers=4,num_heads=8",
    )
    trainer = T5Trainer(
        model=model,
        args=args,
        data_collator=TaskCollator(pad_id=0, start_id=0),
        train_dataset=training,
        processing_class=tokenizer,
        score=score_answers,
    )
    for state in ("untrained", "trained"):
        if state == "trained":
            trainer.train()
        measure(trainer, data, {"rank": ways["rank"]})  # warm-up
        turns = [measure(trainer, data, ways) for _ in range(flags.repeats)]
        for way in ways:
            ratios = [turn["4 beams, 64 tokens"][0] / turn[way][0] for turn in turns]
            row = {
                "model": state,
                "way": way,
                "examples": len(data),
                "loss": round(turns[0][way][1], 6),
                "seconds_median": statistics.median(turn[way][0] for turn in turns),
                "ratio_min_median_max": [min(ratios), statistics.median(ratios), max(ratios)],
            }
            append_row("evaluation", row)
            low, middle, high = row["ratio_min_median_max"]
            print(
                f"{state:<10}{way:<20}{row['seconds_median']:>8.2f} s  "
                f"{low:.2f}x {middle:.2f}x {high:.2f}x  loss {row['loss']:.6f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
