"""Proves that loss, gradient and scores do not depend on how a batch is split into accumulation
steps and ranks, that the library's own loss does, and that data order follows (seed, epoch)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from one_step import NUM_EVALUATED, Rows, one_step, tiny_model
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from data_collator_t5 import FineTuningCollator
from trainer_t5 import EpochSampler, T5Trainer

ONE_STEP = Path(__file__).with_name("one_step.py")


@pytest.fixture(scope="module")
def whole_batch(tokenizer_dir, tmp_path_factory) -> dict:
    """8 rows in one batch of one process."""
    folder = str(tmp_path_factory.mktemp("whole"))
    return one_step(str(tokenizer_dir), output_dir=folder, batch=8, accumulation=1)


def launch_two_ranks(tokenizer_dir: Path, folder: Path, *, batch: int, accumulation: int) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    command += [str(ONE_STEP), str(tokenizer_dir), str(folder / "out"), str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(accumulation)], capture_output=True, text=True, timeout=240, env=environment
    )
    result = folder / "out.2ranks"
    assert result.exists(), done.stdout + done.stderr
    return json.loads(result.read_text())


def assert_same(result: dict, whole: dict) -> None:
    for name in ("loss", "grad_norm", "eval_loss", "eval_token_accuracy"):
        assert result[name] == pytest.approx(whole[name], rel=1e-5), name
    for name in ("eval_num_answers", "eval_num_characters"):
        assert result[name] == whole[name], name


def test_the_loss_is_the_mean_over_all_target_tokens(tokenizer, whole_batch):
    model = tiny_model(tokenizer)
    losses, tokens = 0.0, 0
    for row in (Rows(8)[i] for i in range(8)):
        labels = torch.tensor(row["labels"])[None]
        output = model(input_ids=torch.tensor(row["input_ids"])[None], labels=labels)
        losses = losses + output.loss * labels.numel()
        tokens += labels.numel()
    (losses / tokens).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert whole_batch["loss"] == pytest.approx((losses / tokens).item(), rel=1e-5)
    assert whole_batch["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 4), (1, 8)])
def test_accumulation_changes_nothing(tokenizer_dir, tmp_path, whole_batch, batch, accumulation):
    result = one_step(
        str(tokenizer_dir), output_dir=str(tmp_path), batch=batch, accumulation=accumulation
    )
    assert_same(result, whole_batch)


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2)])
def test_two_ranks_change_nothing(tokenizer_dir, tmp_path, whole_batch, batch, accumulation):
    result = launch_two_ranks(tokenizer_dir, tmp_path, batch=batch, accumulation=accumulation)
    assert result["world_size"] == 2
    assert result["eval_num_answers"] == NUM_EVALUATED
    assert_same(result, whole_batch)


def test_the_librarys_own_loss_still_depends_on_accumulation(tokenizer, tmp_path, whole_batch):
    # The reason for T5Trainer.compute_loss. If this fails, the library has been mended: look there.
    def library_loss(batch: int, accumulation: int) -> float:
        model = tiny_model(tokenizer)
        args = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            logging_steps=1,
            learning_rate=0.0,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        collate = FineTuningCollator(pad_id=0, start_id=0)

        def collate_for_library(rows: list[dict]) -> dict:
            batch = collate(rows)
            del batch["example_index"]
            return batch

        trainer = Seq2SeqTrainer(
            model=model,
            args=args,
            data_collator=collate_for_library,
            train_dataset=Rows(8),
            processing_class=tokenizer,
        )
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    whole, split = library_loss(8, 1), library_loss(2, 4)
    assert whole == pytest.approx(whole_batch["loss"], rel=1e-4)
    assert split > 3 * whole


def test_data_order_is_a_function_of_seed_and_epoch():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    sampler = EpochSampler(100, seed=5)
    first = list(sampler)
    assert list(sampler) == first and sorted(first) == list(range(100)) and first != sorted(first)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == list(range(100, 200))
    assert [key - 100 for key in second] != first
    assert list(EpochSampler(100, seed=6)) != first
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_several_evaluation_sets_give_one_primary_number(tokenizer, tmp_path, tokenizer_dir):
    from flags import parse_flags
    from training_arguments_t5 import FineTuningArguments

    (args,) = parse_flags(
        (FineTuningArguments,), ["--output_dir", str(tmp_path), "--do_train=False", "--use_cpu"]
    )
    trainer = T5Trainer(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=FineTuningCollator(pad_id=0, start_id=0),
        eval_dataset={"matched": Rows(3), "mismatched": Rows(5)},
        processing_class=tokenizer,
        score=lambda dataset, answers: {"accuracy": float(len(answers))},
    )
    metrics = trainer.run()
    assert metrics["eval_matched_accuracy"] == 3 and metrics["eval_mismatched_accuracy"] == 5
    assert metrics["eval_accuracy"] == 4
    tokens = [3 * row + 2 for row in range(5)]
    whole = metrics["eval_matched_loss"] * sum(tokens[:3]) + metrics["eval_mismatched_loss"] * sum(
        tokens
    )
    assert metrics["eval_loss"] == pytest.approx(whole / (sum(tokens[:3]) + sum(tokens)))
