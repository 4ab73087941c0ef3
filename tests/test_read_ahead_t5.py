"""Proves that batches read ahead are those of a plain loader, in any split of steps and after a
resume, that nothing is read too early, too late or in vain, and that errors come at their batch."""

import threading
import time

import numpy as np
import pytest
import torch
from one_step import Rows, tiny_model

from data_collator_t5 import FineTuningCollator
from errors import UserError
from flags import parse_flags
from read_ahead_t5 import EXAMPLES_PER_READ, BatchReader, Order
from trainer_t5 import T5Trainer
from training_arguments_t5 import FineTuningArguments


class Letters:
    """Six examples; what is fetched is noted."""

    def __init__(self):
        self.fetched: list[str] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, key: int) -> str:
        if key == 4:
            raise UserError("the fifth cannot be read")
        self.fetched.append("abcdef"[key])
        return "abcdef"[key]


class Joined:
    def __call__(self, letters: list[str]) -> dict[str, str]:
        return {"word": "".join(letters)}


class JoinedAtOnce(Joined):
    """Notes the sizes of what it is asked for together."""

    def __init__(self):
        self.at_once: list[list[int]] = []

    def several(self, letters: list[str], *, sizes: list[int]) -> list[dict[str, str]]:
        self.at_once.append(sizes)
        rest = iter(letters)
        return [self([next(rest) for _ in range(size)]) for size in sizes]


def until(true, seconds: float = 5.0) -> bool:
    """Whether it becomes true in this time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return true()


def ordered(reader: BatchReader, batches: list[list[int]]):
    """What a loader does with a reader."""
    return (reader.order(reader.keys.__getitems__(keys)) for keys in batches)


@pytest.fixture
def letters():
    return Letters()


@pytest.fixture
def reader(letters):
    reader = BatchReader(letters, collate=Joined(), batch_size=1)
    yield reader
    reader.close()


def words(batches) -> list[str]:
    return [batch["word"] for batch in batches]


def test_nothing_is_read_before_it_may(reader, letters):
    batches = reader.batches(ordered(reader, [[1, 0], [2], [3], [5]]), batches_per_step=1)
    assert next(batches)["word"] == "ba"
    assert until(lambda: letters.fetched == list("bacd"))  # on order when the first was taken
    assert next(batches)["word"] == "c"
    assert not until(lambda: "f" in letters.fetched, seconds=0.05)  # ordered since, put off
    reader.start_reading()
    assert until(lambda: letters.fetched[-1] == "f")
    assert words(batches) == ["d", "f"]


def test_small_batches_are_made_several_at_a_time(letters):
    collate = JoinedAtOnce()
    reader = BatchReader(letters, collate=collate, batch_size=EXAMPLES_PER_READ // 2)
    keys = [[0], [1], [2], [3, 5], [0], [1], [2]]
    batches = reader.batches(ordered(reader, keys), batches_per_step=1)
    assert next(batches)["word"] == "a"  # four are on order
    assert until(lambda: collate.at_once == [[1, 1], [1, 2]])
    assert next(batches)["word"] == "b"
    reader.start_reading()
    assert not until(lambda: len(collate.at_once) > 2, seconds=0.05)  # one more: not enough
    assert next(batches)["word"] == "c"
    reader.start_reading()
    assert until(lambda: collate.at_once[2:] == [[1, 1]])
    assert words(batches) == ["df", "a", "b", "c"]  # the last one alone: nothing comes after it
    assert collate.at_once == [[1, 1], [1, 2], [1, 1]]
    reader.close()


def test_an_error_comes_at_its_batch(reader):
    batches = reader.batches(ordered(reader, [[3], [4], [5]]), batches_per_step=1)
    assert next(batches)["word"] == "d"
    with pytest.raises(UserError, match="the fifth cannot be read"):
        next(batches)


def test_what_is_left_is_not_read(letters):
    entered, leave = threading.Event(), threading.Event()

    def collate(letters: list[str]) -> dict:
        entered.set()
        leave.wait(5)
        return {}

    reader = BatchReader(letters, collate=collate, batch_size=1)
    orders = list(ordered(reader, [[0], [1], [2]]))
    reader.start_reading(all_orders=True)
    assert entered.wait(5)
    threading.Timer(0.05, leave.set).start()
    reader.close()
    assert orders[0].filled.done() and letters.fetched == ["a"]
    assert not any(thread.name == "read_ahead" for thread in threading.enumerate())


def test_a_loader_moves_the_batch_that_comes(monkeypatch):
    order = Order([0])
    order.filled.set_result({"labels": torch.zeros(2)})
    assert order.to("meta", non_blocking=True) is order
    assert order.result()["labels"].device.type == "meta"
    order, pinned = Order([0]), torch.ones(2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned)
    order.filled.set_result({"labels": torch.zeros(2)})
    assert order.pin_memory().result()["labels"] is pinned


# ---- in the trainer -----------------------------------------------------------------------------


class Noted:
    """A collator that notes which examples it was called for, and in which thread."""

    def __init__(self):
        self.collate = FineTuningCollator(pad_id=0, start_id=0)
        self.examples: list[list[int]] = []
        self.threads: set[str] = set()

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        self.examples.append([int(row["example_index"]) for row in rows])
        self.threads.add(threading.current_thread().name)
        return self.collate(rows)


def train(
    tokenizer, folder, *words: str, checkpoint: str | None = None
) -> tuple[list, Noted, T5Trainer]:
    """(the examples of each step's batches, the collator, the trainer) of 12 rows, batches of 2."""
    flags = ["--output_dir", str(folder), "--use_cpu", "--logging_steps", "1", "--bf16", "False"]
    flags += ["--per_device_train_batch_size", "2", "--eval_strategy", "no", "--do_eval", "False"]
    (args,) = parse_flags((FineTuningArguments,), [*flags, *words])
    steps: list = []

    class Watched(T5Trainer):
        epoch = None

        def get_batch_samples(self, epoch_iterator, *args):
            if self.epoch is epoch_iterator and "read_ahead" in collate.threads:
                num_taken = sum(map(len, steps))
                assert until(lambda: len(collate.examples) > num_taken), "not read ahead"
            self.epoch = epoch_iterator
            batches, count = super().get_batch_samples(epoch_iterator, *args)
            steps.append([batch["example_index"].tolist() for batch in batches])
            return batches, count

    collate = Noted()
    trainer = Watched(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=collate,
        train_dataset=Rows(12),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    return steps, collate, trainer


def log_of(trainer: T5Trainer) -> list[tuple]:
    return [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]


@pytest.mark.parametrize("accumulation", [1, 4])  # 4: an epoch's last step has 2 batches
def test_the_same_batches_as_from_a_worker(tokenizer, tmp_path, accumulation):
    words = ["--num_train_epochs", "2", "--save_strategy", "no"]
    words += ["--gradient_accumulation_steps", str(accumulation)]
    ahead, collate, trainer = train(tokenizer, tmp_path / "a", *words)
    by_worker, _, other = train(tokenizer, tmp_path / "b", *words, "--dataloader_num_workers", "1")
    assert collate.threads == {"read_ahead"}
    assert ahead == by_worker and len(ahead) == 2 * (6 if accumulation == 1 else 2)
    assert sorted(np.concatenate(sum(ahead, [])).tolist()) == sorted([*range(12)] * 2)
    assert log_of(trainer) == log_of(other)
    assert len(collate.examples) == 12  # each batch once


def test_a_resumed_run_reads_only_what_is_left(tokenizer, tmp_path):
    words = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "4"]
    words += ["--save_total_limit", "None"]
    whole, _, trainer = train(tokenizer, tmp_path, *words)
    checkpoint = str(tmp_path / "checkpoint-4")
    rest, collate, other = train(tokenizer, tmp_path, *words, checkpoint=checkpoint)
    assert rest == whole[4:]
    assert collate.examples == [batch for step in whole[4:] for batch in step]
    assert collate.threads == {"read_ahead"}
    assert log_of(other)[-8:] == log_of(trainer)[-8:]


def test_the_thread_ends_with_the_training(tokenizer, tmp_path):
    _, collate, trainer = train(tokenizer, tmp_path, "--max_steps", "2", "--save_strategy", "no")
    assert collate.threads == {"read_ahead"}
    assert not any(thread.name == "read_ahead" for thread in threading.enumerate())
    assert isinstance(trainer.train_dataset, Rows) and trainer.data_collator is collate


def test_a_dispatching_loader_reads_by_itself(tokenizer, tmp_path):
    words = ["--max_steps", "2", "--save_strategy", "no"]
    words += ["--accelerator_config", '{"dispatch_batches": true}']
    steps, collate, _ = train(tokenizer, tmp_path, *words)
    assert len(steps) == 2 and collate.threads == {"MainThread"}
