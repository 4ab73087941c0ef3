"""What a model made of the examples of an evaluation set, and their mean scores.

An answer carries its example number, so that scores do not depend on how a set was spread over
batches and ranks. Three ways lead to one (`Answering`): the text that the model writes, the best of
a task's label words, or nothing but the loss of the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from constants import IGNORE_ID
from loss_t5 import TokenScores
from train_batches_t5 import additive_mask, same_document

MOST_LOGITS = 1 << 26  # computed at once when label words are scored: 256 MiB in float32


@dataclass
class Answer:
    """What the model made of one example of an evaluation set."""

    example: int
    loss_sum: float
    num_tokens: int
    num_correct_tokens: int
    text: str | None = None
    num_bytes: int = 0
    objective: int | None = None
    word_scores: tuple[float, ...] | None = None  # log-likelihood of each label word, in nats

    @property
    def probabilities(self) -> tuple[float, ...] | None:
        """The share of each label word in the likelihood of all of them."""
        if self.word_scores is None:
            return None
        shares = np.exp(np.array(self.word_scores) - max(self.word_scores))
        return tuple((shares / shares.sum()).tolist())


@dataclass(frozen=True)
class Answering:
    """How a set is answered: `generation` (what `generate` is called with), `words`, or neither."""

    generation: dict | None = None
    words: LabelWords | None = None


def answers_of(
    scores: TokenScores,
    batch: dict[str, torch.Tensor],
    *,
    texts: Sequence[str | None],
    token_bytes: torch.Tensor | None = None,
) -> list[Answer]:
    """One answer per row from the scores of its target tokens and the batch's labels.

    `token_bytes` [vocabulary] holds how many bytes of text each token stands for.
    """
    labels = batch["labels"]
    counted = labels != IGNORE_ID
    correct = scores.is_correct.bool() & counted
    num_rows = len(labels)
    columns = (
        batch["example_index"].tolist(),
        scores.losses.double().sum(1).tolist(),
        counted.sum(1).tolist(),
        correct.sum(1).tolist(),
        texts,
        [0] * num_rows
        if token_bytes is None
        else (token_bytes.to(labels.device)[labels.clamp(min=0)] * counted).sum(1).tolist(),
        batch["objective_index"].tolist() if "objective_index" in batch else [None] * num_rows,
    )
    return [Answer(*row) for row in zip(*columns, strict=True)]


def each_once(answers: Iterable[Answer]) -> list[Answer]:
    """The answers in the order of their examples; those that only filled up a batch are dropped."""
    by_example = {answer.example: answer for answer in answers}
    return [by_example[example] for example in sorted(by_example)]


def mean_scores(
    answers: Sequence[Answer], *, objective_names: Sequence[str] = ()
) -> dict[str, float]:
    """Mean loss per target token in nats, and the share of target tokens predicted, 0-100.

    Where the bytes of the target text are known, also the loss in bits per byte of it, which
    compares models of different vocabularies. `objective_names` adds loss and accuracy of each
    objective of a mixture.
    """
    num_tokens = max(sum(answer.num_tokens for answer in answers), 1)
    num_bytes = sum(answer.num_bytes for answer in answers)
    loss_sum = math.fsum(answer.loss_sum for answer in answers)
    scores = {
        "loss": loss_sum / num_tokens,
        "token_accuracy": 100 * sum(answer.num_correct_tokens for answer in answers) / num_tokens,
    }
    if num_bytes:
        scores["bits_per_byte"] = loss_sum / math.log(2) / num_bytes
    for number, name in enumerate(objective_names):
        part = [answer for answer in answers if answer.objective == number]
        if part:
            of_part = mean_scores(part)
            scores[f"{name}_loss"] = of_part["loss"]
            scores[f"{name}_token_accuracy"] = of_part["token_accuracy"]
    return scores


# ---- label words --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelWords:
    """The words a task may answer with, and their token ids with EOS."""

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]

    @classmethod
    def encode(
        cls, words: Iterable[str], *, tokenizer: PreTrainedTokenizerBase, length_tokens: int
    ) -> LabelWords:
        """The words as a task's targets are encoded: trimmed to length - 1 tokens, then EOS."""
        words = tuple(words)
        encoded = tokenizer(list(words), add_special_tokens=False)["input_ids"]
        eos = tokenizer.eos_token_id
        return cls(words, tuple((*ids[: length_tokens - 1], eos) for ids in encoded))

    @property
    def longest_tokens(self) -> int:
        return max(map(len, self.ids))


def rank_words(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], *, words: LabelWords
) -> list[Answer]:
    """The most likely label word of each row, with the log-likelihood of every one.

    The score of a word is the sum of its tokens' log-probabilities, EOS included, not divided by
    their number (t5/evaluation/metrics.py, rank_classification). All words stand in one decoder
    row, kept apart by its mask, so encoder and cross-attention states are computed once:

        decoder row   <start> pos itive   <start> neg ative
        scored        pos itive </s>      neg ative </s>

    The loss of a row is that of its own target, which is one of the words or, where it is hidden,
    none: then it counts no tokens.
    """
    scores, correct = [], []
    encoded = None
    for part in _parts(words.ids, batch=len(batch["input_ids"]), model=model):
        targets = torch.tensor([i for ids in part for i in ids], device=batch["input_ids"].device)
        numbers = torch.tensor([n for n, ids in enumerate(part) for _ in ids])
        numbers = numbers.to(targets.device)
        logits, encoded = _word_logits(
            model, batch, targets=targets, numbers=numbers, encoded=encoded
        )
        expected = targets.expand(logits.shape[:2])
        found = logits.gather(-1, expected[..., None])[..., 0].double()
        log_likelihoods = found - logits.logsumexp(-1).double()
        per_word = torch.zeros(len(logits), len(part), dtype=torch.double, device=logits.device)
        scores.append(per_word.index_add(1, numbers, log_likelihoods))
        hits = (logits.argmax(-1) == expected).double()
        correct.append(per_word.index_add(1, numbers, hits))
    return list(_ranked(batch, words, torch.cat(scores, 1).cpu(), torch.cat(correct, 1).cpu()))


def _parts(
    ids: Sequence[tuple[int, ...]], *, batch: int, model: torch.nn.Module
) -> Iterator[list[tuple[int, ...]]]:
    """The words in runs whose logits stay below MOST_LOGITS; each run has at least one."""
    most_tokens = MOST_LOGITS // (batch * model.config.vocab_size)
    part: list[tuple[int, ...]] = []
    for word in ids:
        if part and sum(map(len, part)) + len(word) > most_tokens:
            yield part
            part = []
        part.append(word)
    yield part


def _word_logits(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    *,
    targets: torch.Tensor,
    numbers: torch.Tensor,
    encoded: tuple[torch.Tensor] | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    """(logits [batch, tokens of all words, vocabulary], encoder states) of one forward pass."""
    is_first = torch.ones_like(numbers, dtype=torch.bool)
    is_first[1:] = numbers[1:] != numbers[:-1]
    started = targets.roll(1).masked_fill(is_first, model.config.decoder_start_token_id)
    mask = additive_mask(same_document(numbers[None], numbers[None]).tril(), like=model)
    inputs = {"input_ids": batch["input_ids"]} if encoded is None else {"encoder_outputs": encoded}
    if batch.get("attention_mask") is not None:
        inputs["attention_mask"] = batch["attention_mask"]
    outputs = model(
        **inputs,
        decoder_input_ids=started.expand(len(batch["input_ids"]), -1),
        decoder_attention_mask=mask,
        use_cache=False,
    )
    return outputs.logits.float(), (outputs.encoder_last_hidden_state,)


def _ranked(
    batch: dict[str, torch.Tensor],
    words: LabelWords,
    scores: torch.Tensor,
    correct: torch.Tensor,
) -> Iterator[Answer]:
    targets = {ids: number for number, ids in enumerate(words.ids)}
    labels = batch["labels"].cpu()
    for row, example in enumerate(batch["example_index"].tolist()):
        ids = labels[row]
        gold = targets.get(tuple(ids[ids != IGNORE_ID].tolist()))
        is_known = gold is not None
        yield Answer(
            example=example,
            loss_sum=-scores[row, gold].item() if is_known else 0.0,
            num_tokens=len(words.ids[gold]) if is_known else 0,
            num_correct_tokens=int(correct[row, gold]) if is_known else 0,
            text=words.words[int(scores[row].argmax())],
            word_scores=tuple(scores[row].tolist()),
        )
