"""Proves that ranking label words in one pass gives what one pass per word gives, that generation
ends where the task's targets do, and that neither depends on batches."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import answers_t5
from answers_t5 import Answer, LabelWords, rank_words
from data_collator_t5 import FineTuningCollator
from loss_t5 import score_logits
from model_t5 import make_model
from task_sets_t5 import TaskSets, answering_of, generation_settings
from tasks import make_task

WORDS = ("entailment", "not entailment", "the cat", "a")


def tiny_model(tokenizer, *, shape="t5-v1_1-small", attention="eager"):
    return make_model(
        shape=shape,
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=0,
        attn_implementation=attention,
        config_overrides="d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4",
    ).eval()


def make_batch(words: LabelWords, *, num_rows: int = 5, hidden: tuple[int, ...] = ()) -> dict:
    rng = np.random.default_rng(1)
    examples = [
        {
            "input_ids": np.append(rng.integers(3, 100, size=3 + 4 * row), 1),
            "labels": [2, 1] if row in hidden else list(words.ids[row % len(words.ids)]),
            "example_index": row,
        }
        for row in range(num_rows)
    ]
    return FineTuningCollator(pad_id=0, start_id=0)(examples)


def naive_scores(model, batch: dict, words: LabelWords) -> torch.Tensor:
    """Log-likelihood of each word by a whole forward pass for each, [rows, words]."""
    scores = []
    for ids in words.ids:
        labels = torch.tensor([ids] * len(batch["input_ids"]))
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).logits
        losses = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        ).view_as(labels)
        scores.append(-losses.sum(1))
    return torch.stack(scores, dim=1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", ["t5-v1_1-small", "t5-small"])
@torch.no_grad()
def test_one_pass_ranks_as_a_pass_for_each_word(tokenizer, shape, attention, monkeypatch):
    model = tiny_model(tokenizer, shape=shape, attention=attention)
    words = LabelWords.encode(WORDS, tokenizer=tokenizer, length_tokens=64)
    assert len({len(ids) for ids in words.ids}) > 2
    batch = make_batch(words)
    expected = naive_scores(model, batch, words)
    for most_logits in (answers_t5.MOST_LOGITS, 1):  # all words at once; one word at a time
        monkeypatch.setattr(answers_t5, "MOST_LOGITS", most_logits)
        answers = rank_words(model, batch, words=words)
        found = torch.tensor([answer.word_scores for answer in answers])
        torch.testing.assert_close(
            found, expected.double(), rtol=1e-5, atol=1e-5, check_dtype=False
        )
        assert [a.text for a in answers] == [WORDS[i] for i in expected.argmax(1).tolist()]


@torch.no_grad()
def test_the_loss_is_that_of_the_targets_own_word(tokenizer):
    model = tiny_model(tokenizer)
    words = LabelWords.encode(WORDS, tokenizer=tokenizer, length_tokens=64)
    batch = make_batch(words, hidden=(2,))
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "example_index")}
    expected = answers_t5.answers_of(
        score_logits(model(**inputs).logits, batch["labels"]), batch, texts=[None] * 5
    )
    for found, whole in zip(rank_words(model, batch, words=words), expected, strict=True):
        if found.example == 2:
            assert (found.loss_sum, found.num_tokens) == (0.0, 0)
            continue
        assert found.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)
        assert found.num_tokens == whole.num_tokens
        assert found.num_correct_tokens == whole.num_correct_tokens


def test_probabilities_are_shares_of_the_likelihood():
    answer = Answer(0, 0.0, 0, 0, word_scores=(-1000.0, -1000.0 + np.log(3)))
    assert answer.probabilities == pytest.approx((0.25, 0.75))
    assert Answer(0, 0.0, 0, 0).probabilities is None


def make_labelled_task(labels):
    entry = {
        "prefix": "say:",
        "text_column_name": "sentence",
        "label_column_name": "label",
        "labels": labels,
        "metric_to_optimize": "accuracy",
        "metric_names": ["accuracy"],
    }
    return make_task("own", "own", entry)


class Targets:
    """Stands for a TaskDataset whose longest target has so many tokens."""

    def __init__(self, longest: int, *, hidden: bool = False):
        self.longest, self.has_hidden_labels = longest, hidden

    def lengths(self, epoch):
        return np.array([(5, 2), (9, self.longest)])


@pytest.mark.parametrize(
    ("by_name", "most", "expected"),
    [
        ({"train": Targets(7), "validation": Targets(9)}, 64, 9),
        ({"train": Targets(7), "test": Targets(90, hidden=True)}, 64, 7),
        ({"train": Targets(80)}, 64, 64),
        ({}, 64, 33),
    ],
)
def test_as_much_is_generated_as_the_targets_need(tokenizer, by_name, most, expected):
    sets = TaskSets(make_labelled_task(None), "own", by_name)
    answering = answering_of(
        sets, "generate", tokenizer=tokenizer, most_tokens=most, default_tokens=33
    )
    assert answering.generation["max_new_tokens"] == expected
    assert answering.generation["num_beams"] == 1


def test_label_words_are_generated_whole(tokenizer):
    sets = TaskSets(make_labelled_task({0: "a", 1: "not entailment"}), "own", {})
    longest = len(tokenizer("not entailment").input_ids)
    answering = answering_of(sets, "generate", tokenizer=tokenizer, most_tokens=64)
    assert answering.generation["max_new_tokens"] == longest
    ranked = answering_of(sets, "rank", tokenizer=tokenizer, most_tokens=64)
    assert ranked.generation is None and ranked.words.words == ("a", "not entailment")


@torch.no_grad()
def test_true_beams_find_a_likelier_text_than_greed(tokenizer):
    torch.manual_seed(0)
    model = tiny_model(tokenizer)
    ids = torch.randint(3, 100, (12, 9))
    beams = {"num_beams": 6, "length_penalty": 0.0}
    found = {}
    for name, settings in (
        ("greedy", generation_settings(6)),
        ("beams", generation_settings(6, beams=beams)),
    ):
        texts = model.generate(input_ids=ids, **settings)
        labels = texts[:, 1:].masked_fill(texts[:, 1:] == 0, -100)
        logits = model(input_ids=ids, labels=labels.contiguous()).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        found[name] = losses.view_as(labels).sum(1)
    assert (found["beams"] <= found["greedy"] + 1e-4).all()
    assert found["beams"].sum() < found["greedy"].sum() - 0.1
