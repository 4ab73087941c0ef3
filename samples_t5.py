"""Examples as text: what the model reads, what it shall write, what it writes.

the cat <extra_id_0> the mat<extra_id_1>      read
<extra_id_0> sat on<extra_id_1>.              shall write
the cat [sat on => sat in] the mat[. => .]    filled_text
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from terminal_t5 import paint, say

BRIEF_CHARACTERS = 400
PAIR = re.compile(r"\[([^\[\]]*) => ([^\[\]]*)\]")


def print_examples(
    batch: dict, *, tokenizer: PreTrainedTokenizerBase, objective_names: Sequence[str] = ()
) -> None:
    """Each example of a batch as text, ids and lengths, and its objective; padding left out."""
    for number, (inputs, labels) in enumerate(
        zip(batch["input_ids"], batch["labels"], strict=True)
    ):
        label = ""
        if "objective_index" in batch:
            label = f" ({objective_names[batch['objective_index'][number]]})"
        pairs = (("inputs ", inputs[inputs != tokenizer.pad_token_id]),)
        pairs += (("targets", labels[labels >= 0]),)
        for name, ids in pairs:
            print(f"example {number}{label} {name} {len(ids)} tokens")
            print(f"  text {tokenizer.decode(ids)}")
            print(f"  ids  {' '.join(map(str, ids.tolist()))}")


def print_briefly(batch: dict, *, tokenizer: PreTrainedTokenizerBase) -> None:
    """Each example of a batch as text, cut to a few lines."""
    for inputs, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        print(f"reads      {_cut(tokenizer.decode(inputs[inputs != tokenizer.pad_token_id]))}")
        print(f"to write   {_cut(tokenizer.decode(labels[labels >= 0]))}", flush=True)


class FillIns:
    """Called with a model, prints how it fills the blanks of a batch of held-out examples.

    What it answered in the evaluation does not matter here.

    Every rank must call it; `prints` says which one prints.
    """

    def __init__(
        self,
        batch: dict[str, torch.Tensor],
        *,
        tokenizer: PreTrainedTokenizerBase,
        sentinels: list[int],
        prints: bool,
    ):
        self.batch = batch
        self.tokenizer = tokenizer
        self.sentinels = sentinels
        self.prints = prints
        self.texts: list[str] = []  # as they were filled in last

    def first_input(self) -> str:
        """The text of the first example with its blanks."""
        ids = self.batch["input_ids"][0].tolist()
        ends = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return self.tokenizer.decode([token for token in ids if token not in ends])

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, answers: object = None) -> None:
        model.eval()
        inputs, labels = self.batch["input_ids"], self.batch["labels"]
        written = model.generate(
            input_ids=inputs.to(model.device),
            attention_mask=(inputs != self.tokenizer.pad_token_id).long().to(model.device),
            max_new_tokens=labels.shape[1],
            num_beams=1,
            do_sample=False,
            synced_gpus=is_deepspeed_zero3_enabled(),
        ).cpu()
        if not self.prints:
            return
        rows = zip(inputs.tolist(), labels.tolist(), written.tolist(), strict=True)
        self.texts = [
            filled_text(*row, tokenizer=self.tokenizer, sentinels=self.sentinels) for row in rows
        ]
        for text in self.texts:
            say(f"held out   {PAIR.sub(_painted, _cut(text))}")


def _painted(pair: re.Match) -> str:
    """[expected => written] with what was written in the colour of right or wrong."""
    colour = "green" if pair[1] == pair[2] else "red"
    return f"[{pair[1]} => {paint(pair[2], colour)}]"


def filled_text(
    inputs: list[int],
    labels: list[int],
    written: list[int],
    *,
    tokenizer: PreTrainedTokenizerBase,
    sentinels: list[int],
) -> str:
    """The input text with [expected => written] in place of each sentinel, else behind its end."""
    ends = {tokenizer.pad_token_id, tokenizer.eos_token_id}
    parts: list[str] = []
    expected, found = (spans_by_sentinel(ids, sentinels, ends=ends) for ids in (labels, written))
    plain: list[int] = []
    for token in [*(i for i in inputs if i not in ends), None]:
        if token is not None and token not in sentinels:
            plain.append(token)
            continue
        parts += [tokenizer.decode(plain)] if plain else []
        plain = []
        if token is not None:
            pair = (tokenizer.decode(spans.get(token, [])) for spans in (expected, found))
            parts.append("[{} => {}]".format(*pair))
    if not set(inputs) & set(sentinels):
        pair = (tokenizer.decode(spans.get(None, [])) for spans in (expected, found))
        parts.append("[{} => {}]".format(*pair))
    return " ".join(parts)


def print_answers(answers: Sequence[tuple[str, str, str]]) -> None:
    """(read, to write, written) of some held-out rows, one line each."""
    for read, expected, written in answers:
        is_right = written == expected
        shown = paint(_cut(written) or "(nothing)", "green" if is_right else "red")
        remark = "" if is_right else f"   (to write: {_cut(expected)})"
        say(f"held out   {_cut(read)} => {shown}{remark}")


def spans_by_sentinel(
    ids: list[int], sentinels: list[int], *, ends: set[int]
) -> dict[int | None, list[int]]:
    """The tokens behind each sentinel; those before the first one stand under None."""
    spans: dict[int | None, list[int]] = {}
    current = None
    for token in ids:
        if token in sentinels:
            current = token
            spans.setdefault(current, [])
        elif token >= 0 and token not in ends:
            spans.setdefault(current, []).append(token)
    return spans


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= BRIEF_CHARACTERS else line[:BRIEF_CHARACTERS] + " ..."
