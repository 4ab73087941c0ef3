"""Proves that batches have T5's exact shapes, end in EOS, hide padding, do not depend on which
examples share them, and say which component of a mixture each example follows."""

import numpy as np
import pytest
import torch

from corruption_t5 import causal_lm, span_corruption
from data_collator_t5 import (
    FineTuningCollator,
    PreTrainingCollator,
    WindowBatch,
    padding_shares,
)
from noise_masks import ExampleRng
from objective_mixtures import MIXTURES, make_mixture

SENTINELS = list(range(32099, 31999, -1))


def make_collator(*, input_length=512, roll=False) -> PreTrainingCollator:
    objective = span_corruption(
        input_length_tokens=input_length,
        noise_density=0.15,
        mean_noise_span_length=3.0,
        random_roll=roll,
    )
    return PreTrainingCollator(
        objective=objective, sentinels=SENTINELS, pad_id=0, eos_id=1, start_id=0, seed=3
    )


def windows_of(examples, *, lengths, epoch=0) -> WindowBatch:
    windows = [
        np.arange(100 + 1000 * e, 100 + 1000 * e + n, dtype=np.uint16)
        for e, n in zip(examples, lengths, strict=True)
    ]
    return WindowBatch(windows, np.full(len(windows), epoch), np.array(examples))


def test_512_tokens_take_568_and_answer_114():
    batch = make_collator()(windows_of(range(8), lengths=[568] * 8))
    assert batch["input_ids"].shape == (8, 512)
    assert batch["labels"].shape == (8, 114)
    assert "attention_mask" not in batch  # nothing is padded
    assert (batch["input_ids"][:, -1] == 1).all() and (batch["labels"][:, -1] == 1).all()
    assert (batch["input_ids"] >= 31999).sum(1).tolist() == [28] * 8
    assert (batch["decoder_input_ids"][:, 0] == 0).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])


def test_sentinels_descend_from_extra_id_0():
    batch = make_collator()(windows_of([0], lengths=[568]))
    found = [t for t in batch["labels"][0].tolist() if t > 31999]
    assert found == SENTINELS[:28]


def test_short_windows_are_padded_and_masked():
    batch = make_collator(input_length=64)(windows_of([0, 1, 2], lengths=[70, 9, 1]))
    assert batch["input_ids"].shape[1] == 64
    for ids, mask, labels in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        length = int(mask.sum())
        assert ids[length - 1] == 1 and (ids[length:] == 0).all() and (mask[:length] == 1).all()
        assert (labels == 1).sum() == 1
        assert (labels[labels.tolist().index(1) + 1 :] == -100).all()


def test_an_example_is_the_same_in_any_batch():
    collator = make_collator(input_length=64)
    together = collator(windows_of([4, 5, 6], lengths=[70, 70, 30]))
    for row, (example, length) in enumerate([(4, 70), (5, 70), (6, 30)]):
        alone = collator(windows_of([example], lengths=[length]))
        for name in ("input_ids", "labels"):
            assert torch.equal(alone[name][0], together[name][row])
        assert alone["example_index"].tolist() == [example]


@pytest.mark.parametrize("lengths", [[70] * 7, [70, 9, 1, 30, 30, 70, 12]])
@pytest.mark.parametrize("mixed", [False, True])
def test_several_batches_are_those_collated_one_by_one(lengths, mixed):
    collator = make_mixture_collator() if mixed else make_collator(input_length=64, roll=True)
    together = collator.several(windows_of(range(7), lengths=lengths), sizes=[3, 1, 3])
    for batch, rows in zip(together, (range(3), range(3, 4), range(4, 7)), strict=True):
        alone = collator(windows_of(rows, lengths=[lengths[row] for row in rows]))
        assert alone.keys() == batch.keys()
        assert all(torch.equal(alone[name], batch[name]) for name in alone)


def test_epochs_differ():
    collator = make_collator(input_length=64)
    first, second = (collator(windows_of([0], lengths=[70], epoch=e)) for e in (0, 1))
    assert not torch.equal(first["labels"], second["labels"])


def make_mixture_collator(*, input_length=64) -> PreTrainingCollator:
    objective = make_mixture(
        MIXTURES["ul2"],
        input_length_tokens=input_length,
        defaults={},
        mode_ids={"[NLU]": [50], "[S2S]": [51], "[NLG]": [52]}.__getitem__,
        extras={},
    )
    return PreTrainingCollator(
        objective=objective, sentinels=SENTINELS, pad_id=0, eos_id=1, start_id=0, seed=3
    )


def test_a_mixture_tells_each_examples_component():
    collator = make_mixture_collator()
    raw = collator.objective.raw_length_tokens
    lengths = [raw] * 30 + [5, 9]
    batch = collator(windows_of(range(32), lengths=lengths))
    numbers = batch["objective_index"].tolist()
    assert len(set(numbers)) > 4 and batch["objective_index"].dtype == torch.int64
    mode_of = [50 if n[0] == "r" else 51 if n[0] == "s" else 52 for n in collator.objective.names]
    # What the inputs start with shows that the index is that of the component that wrote them.
    assert batch["input_ids"][:, 0].tolist() == [mode_of[number] for number in numbers]
    assert "objective_index" not in make_collator()(windows_of([0], lengths=[568]))


def test_an_example_of_a_mixture_is_the_same_in_any_batch():
    collator = make_mixture_collator()
    raw = collator.objective.raw_length_tokens
    lengths = [raw, raw, 7, raw, 2, 1, raw, 7]
    together = collator(windows_of(range(8), lengths=lengths, epoch=2))
    for example, length in enumerate(lengths):
        alone = collator(windows_of([example], lengths=[length], epoch=2))
        for name in ("input_ids", "labels", "decoder_input_ids", "objective_index"):
            assert torch.equal(alone[name][0], together[name][example])
    other_epoch = collator(windows_of(range(8), lengths=lengths, epoch=3))
    assert not torch.equal(other_epoch["objective_index"], together["objective_index"])


def test_the_component_is_drawn_before_all_else():
    collator = make_mixture_collator()
    examples = np.arange(60)
    rng = ExampleRng(seed=3, epochs=np.zeros(60, dtype=int), examples=examples)
    chosen = collator.objective.choose(rng)
    batch = collator(windows_of(examples.tolist(), lengths=[9] * 60))
    assert batch["objective_index"].tolist() == chosen.tolist()


def test_inputs_of_eos_alone():
    objective = causal_lm(input_length_tokens=8)
    collator = PreTrainingCollator(
        objective=objective, sentinels=[], pad_id=0, eos_id=1, start_id=0, seed=3
    )
    batch = collator(windows_of([0, 1], lengths=[7, 7]))
    assert batch["input_ids"].tolist() == [[1], [1]] and "attention_mask" not in batch
    assert batch["labels"][0].tolist() == [*range(100, 107), 1]


def test_the_shares_of_padding():
    batch = {
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
        "labels": torch.tensor([[5, 1], [1, -100]]),
    }
    assert padding_shares(batch) == (0.5, 0.25)
    assert padding_shares({"labels": batch["labels"]}) == (0.0, 0.25)


def test_fine_tuning_pads_to_a_multiple_of_eight():
    examples = [
        {"input_ids": np.array([5, 6, 1]), "labels": np.array([7, 1]), "example_index": 3},
        {"input_ids": np.arange(5, 14), "labels": np.array([7, 8, 1]), "example_index": 9},
    ]
    batch = FineTuningCollator(pad_id=0, start_id=0)(examples)
    assert batch["input_ids"].shape == (2, 16) and batch["labels"].shape == (2, 8)
    assert batch["attention_mask"].sum(1).tolist() == [3, 9]
    assert batch["labels"][0].tolist() == [7, 1] + [-100] * 6
    assert batch["decoder_input_ids"][0].tolist() == [0, 7, 1, 0, 0, 0, 0, 0]
    assert batch["example_index"].tolist() == [3, 9]
