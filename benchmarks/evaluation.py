"""Examples per second of evaluating a classification task, by how answers are found.

    .venv/bin/python benchmarks/evaluation.py --examples 96 --repeats 3

The reference is what the original scripts do: the library's Seq2SeqTrainer and model, 4 beams and
64 tokens. Beside it, all with this project's trainer: the same beams, beams and greed as long as
the labels need, and the label words scored in one pass; on an untrained model and on one trained
for 60 steps to write label words. T5 v1.1 of 4 + 4 layers and d_model 256, one thread; the ways
take turns, and ratios of processor seconds are taken within a turn. `same` is the share of examples
for which a way gives the reference's text.
"""

from __future__ import annotations

import argparse
import copy
import functools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import append_row

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from references import UntiedT5, spread  # noqa: E402
from transformers import (  # noqa: E402
    DataCollatorForSeq2Seq,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

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

STOCK = "stock, 4 beams, 64 tokens"
BEAMS = {"num_beams": 4, "length_penalty": 0.6}
WORDS = "the a film is was good bad dull fine and or but very quite never plot actor scene".split()


def make_rows(num_rows: int) -> list[dict]:
    """Sentences of 5 to 60 words, labelled at random."""
    rng = random.Random(0)
    return [
        {"sentence": " ".join(rng.choices(WORDS, k=rng.randint(5, 60))), "label": rng.randint(0, 1)}
        for _ in range(num_rows)
    ]


def stock_trainer(model, *, tokenizer, batch_size: int, folder: Path) -> Seq2SeqTrainer:
    """The library's own trainer with its own model of the same weights."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    stock = UntiedT5(config)
    stock.load_state_dict(model.state_dict())
    stock.generation_config = GenerationConfig(
        max_new_tokens=64,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        **BEAMS,
    )
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_eval_batch_size=batch_size,
        predict_with_generate=True,
        report_to="none",
        disable_tqdm=True,
    )
    collate = DataCollatorForSeq2Seq(tokenizer, model=stock)
    return Seq2SeqTrainer(model=stock, args=args, data_collator=collate)


def by_stock(trainer: Seq2SeqTrainer, data: TaskDataset, *, tokenizer) -> list[str]:
    """The text that the library's trainer has for each example."""
    pairs = zip(data.input_ids, data.labels, strict=True)
    rows = [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in pairs]
    written = trainer.predict(rows).predictions
    written = np.where(written < 0, tokenizer.pad_token_id, written)
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def by_ours(trainer: T5Trainer, data: TaskDataset, *, answering: Answering) -> list[str]:
    """The text that this project has for each example, answered in this way."""
    data.answering = answering
    metrics = trainer.evaluate(data)
    assert abs(mean_scores(trainer.answers["eval"])["loss"] - metrics["eval_loss"]) < 1e-9
    return [answer.text for answer in trainer.answers["eval"]]


def compare(state: str, ways: dict[str, Callable[[], list[str]]], *, repeats: int) -> None:
    """Times the ways in turns; a line on the screen and a row of results for each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, answer in ways.items():
            started = time.process_time()
            texts[name] = answer()
            seconds[name].append(time.process_time() - started)
    for name, times in seconds.items():
        same = sum(a == b for a, b in zip(texts[STOCK], texts[name], strict=True))
        row = {
            "model": state,
            "way": name,
            "examples": len(texts[name]),
            "same_percent": 100 * same / len(texts[name]),
            "seconds_median": statistics.median(times),
            "ratio_min_median_max": spread(
                [a / b for a, b in zip(seconds[STOCK], times, strict=True)]
            ),
        }
        append_row("evaluation", row)
        low, middle, high = row["ratio_min_median_max"]
        print(
            f"{state:<10}{name:<26}{row['seconds_median']:>8.2f} s  "
            f"{low:.2f}x {middle:.2f}x {high:.2f}x  same {row['same_percent']:.0f} %",
            flush=True,
        )


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
    answerings = {
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
        stock = stock_trainer(trainer.model, tokenizer=tokenizer, batch_size=32, folder=folder)
        ways = {STOCK: functools.partial(by_stock, stock, data, tokenizer=tokenizer)}
        for name, answering in answerings.items():
            ways[name] = functools.partial(by_ours, trainer, data, answering=answering)
        ways["rank"]()  # warm-up
        compare(state, ways, repeats=flags.repeats)


if __name__ == "__main__":
    main()
