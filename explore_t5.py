"""A page on this machine to try a model: it fills the blanks of a text, or answers a task.

    python explore_t5.py outputs/pre_train                 then open http://127.0.0.1:7860
    python explore_t5.py outputs/fine_tune --port 8000
    python explore_t5.py google/flan-t5-base               from the Hub

MODEL is a folder (adapters alike) or a Hub name. Nothing leaves this machine; Ctrl-C ends it.
"""

from __future__ import annotations

import cpu_process  # isort: skip  # noqa: F401 (before torch)

import argparse
import html
import importlib.util
import math
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from answers_t5 import rank_words
from constants import DATASET_VALS
from errors import UserError, run_program
from model_t5 import load_tokenizer, sentinel_ids, start_model
from run_scope_t5 import same_library_state
from samples_t5 import spans_by_sentinel
from task_sets_t5 import label_words
from tasks import FORMATS, Task, find_task, tasks_of

BLANK = re.compile(r"_{2,}|<blank>", flags=re.IGNORECASE)
NUM_WAYS = 5  # beams, and fillings shown
MOST_INPUT_TOKENS = 1024
# Tasks whose input is made of the columns that a person can type.
PLAIN_INPUTS = [
    FORMATS["input"][name] for name in ("columns", "without_markup", "padded_punctuation")
]
MOST_COLUMNS = 6


@dataclass(frozen=True)
class Explored:
    """A model that is tried, and its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, name_or_path: str) -> Explored:
        """A model from a folder or the Hub, ready to answer."""
        tokenizer = load_tokenizer(name_or_path)
        has_gpu = torch.cuda.is_available()
        settings = {"name_or_path": name_or_path, "shape": None, "dropout_rate": 0.0, "seed": 0}
        with same_library_state():  # a notebook's, too, that calls this
            model = start_model(**settings, tokenizer=tokenizer, use_cpu=not has_gpu)
        return cls(name_or_path, model.to("cuda" if has_gpu else "cpu").eval(), tokenizer)

    def encode(self, text: str) -> torch.Tensor:
        """[1, length] with EOS; long texts are cut."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [*ids[: MOST_INPUT_TOKENS - 1], self.tokenizer.eos_token_id]
        return torch.tensor([ids], device=self.model.device)


# ---- blanks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filling:
    """One way to fill all blanks of a text: {part: text or filling}, and how likely it is."""

    probability: float
    parts: tuple[str, ...]  # text, filling, text, filling, ... text

    @property
    def fillings(self) -> tuple[str, ...]:
        return self.parts[1::2]


def with_sentinels(text: str, *, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """The ___ sees <blank>. -> The <extra_id_0> sees <extra_id_1>. and the sentinels' ids."""
    ids = sentinel_ids(tokenizer)
    num_blanks = len(BLANK.findall(text))
    if num_blanks == 0:
        raise UserError("Mark what is missing with ___, as in: The ___ sees the tree.")
    if num_blanks > len(ids):
        raise UserError(
            f"There are {num_blanks} blanks, and this model's tokenizer has {len(ids)} sentinels. "
            "Leave some out."
        )
    names = iter(tokenizer.convert_ids_to_tokens(ids[:num_blanks]))
    return BLANK.sub(lambda _: next(names), text), ids[:num_blanks]


@torch.no_grad()
def fill_blanks(
    explored: Explored, text: str, *, most_tokens: int = 32, num_ways: int = NUM_WAYS
) -> list[Filling]:
    """The likeliest ways to fill a text's blanks, by beam search, the best first.

    Writing ends where the model begins a blank that the text has not. A probability is that of all
    tokens the model writes for it; those of different ways add up to at most 1.
    """
    tokenizer = explored.tokenizer
    marked, sentinels = with_sentinels(text, tokenizer=tokenizer)
    others = [token for token in sentinel_ids(tokenizer) if token not in sentinels]
    written = explored.model.generate(
        input_ids=(ids := explored.encode(marked)),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most_tokens,
        num_beams=num_ways,
        num_return_sequences=num_ways,
        do_sample=False,
        eos_token_id=[tokenizer.eos_token_id, *others],
        length_penalty=0.0,  # the score of a sequence is then its log-probability
        output_scores=True,
        return_dict_in_generate=True,
    )
    pieces = [piece.strip() for piece in BLANK.split(text)]
    ends = {tokenizer.pad_token_id, tokenizer.eos_token_id}
    found: dict[tuple[str, ...], float] = {}
    for row, score in zip(
        written.sequences.tolist(), written.sequences_scores.tolist(), strict=True
    ):
        spans = spans_by_sentinel(row, sentinel_ids(tokenizer), ends=ends)
        fillings = [tokenizer.decode(spans.get(sentinel, [])).strip() for sentinel in sentinels]
        parts = [pieces[0]]
        for filling, piece in zip(fillings, pieces[1:], strict=True):
            parts += [filling, piece]
        found[tuple(parts)] = found.get(tuple(parts), 0.0) + math.exp(score)
    ways = [Filling(probability, parts) for parts, probability in found.items()]
    return sorted(ways, key=lambda way: -way.probability)


# ---- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskAnswer:
    """What the model reads for a row, what it writes, and the share of each label word."""

    read: str
    written: str
    labels: dict[str, float]


def typed_tasks(task_file: str | None = None) -> dict[str, Task]:
    """{benchmark/task: task} of those whose rows a person can type; one's own first."""
    found: dict[str, Task] = {}
    if task_file is not None:
        own = find_task(None, None, task_file=task_file)
        if not _can_be_typed(own):
            raise UserError(
                f"--task_file {task_file}: a row of {own} cannot be typed: its input must be made "
                f"of at most {MOST_COLUMNS} columns alone. Leave --task_file out."
            )
        found[str(own)] = own
    for benchmark in DATASET_VALS:
        for name in tasks_of(benchmark):
            task = find_task(benchmark, name)
            if _can_be_typed(task):
                found[str(task)] = task
    return found


def _can_be_typed(task: Task) -> bool:
    return task.input_format in PLAIN_INPUTS and len(task.text_column_name) <= MOST_COLUMNS


@torch.no_grad()
def answer_task(
    explored: Explored, task: Task, texts: Sequence[str], *, most_tokens: int = 64
) -> TaskAnswer:
    """The model's answer to a row whose columns hold these texts."""
    read = task.input_text(dict(zip(task.text_column_name, texts, strict=True)))
    ids = explored.encode(read)
    mask = torch.ones_like(ids)
    written = explored.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=most_tokens,
        num_beams=1,
        do_sample=False,
    )
    labels: dict[str, float] = {}
    if task.labels:
        words = label_words(task, tokenizer=explored.tokenizer, length_tokens=most_tokens)
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.full((1, 1), explored.tokenizer.eos_token_id, device=ids.device),
            "example_index": torch.zeros(1, dtype=torch.long),
        }
        (answer,) = rank_words(explored.model, batch, words=words)
        labels = dict(zip(words.words, answer.probabilities, strict=True))
    return TaskAnswer(
        read=read,
        written=explored.tokenizer.decode(written[0], skip_special_tokens=True),
        labels=dict(sorted(labels.items(), key=lambda item: -item[1])),
    )


# ---- the page -----------------------------------------------------------------------------------


def describe(explored: Explored) -> str:
    """outputs/pre_train · 1.1 M parameters · 1,124 tokens · cpu"""
    parameters = sum(p.numel() for p in explored.model.parameters())
    size = f"{parameters / 1e9:.2f} G" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
    facts = (explored.name, f"{size} parameters", f"{len(explored.tokenizer):,} tokens")
    return " · ".join((*facts, explored.model.device.type))


def ways_as_html(ways: Sequence[Filling]) -> str:
    """The fillings, each with a bar as long as it is likely beside the likeliest."""
    best = max((way.probability for way in ways), default=0.0) or 1.0
    rows = []
    for way in ways:
        shown = [
            f"<mark>{html.escape(part) or '–'}</mark>" if number % 2 else html.escape(part)
            for number, part in enumerate(way.parts)
        ]
        text = " ".join(part for part in shown if part)
        rows.append(_row(way.probability, text, length=way.probability / best))
    return f'<div class="ways">{"".join(rows)}</div>'


def labels_as_html(labels: dict[str, float]) -> str:
    """The label words in the same form; '' where a task has none."""
    rows = [_row(share, html.escape(word), length=share) for word, share in labels.items()]
    return f'<div class="ways">{"".join(rows)}</div>' if rows else ""


def _row(share: float, text: str, *, length: float) -> str:
    percent = f"{100 * share:.1f} %" if share >= 0.0005 else "&lt; 0.1 %"
    return (
        f'<div class="way"><span class="share">{percent}</span><div>'
        f'<div class="text">{text}</div><div class="bar"><i style="width:{100 * length:.2f}%"></i>'
        "</div></div></div>"
    )


STYLE = """
.gradio-container { width: 100% !important; max-width: 880px !important;
  margin: 0 auto !important; }
.ways { display: flex; flex-direction: column; gap: 14px; padding: 4px 2px; }
.way { display: grid; grid-template-columns: 68px 1fr; gap: 14px; align-items: baseline; }
.share { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.text { font-size: 16px; line-height: 1.5; overflow-wrap: anywhere; }
.text mark { background: #d8ebff; color: #0b3d6e; border-radius: 5px; padding: 1px 6px; }
.dark .text mark { background: #17395c; color: #cfe6ff; }
.bar { height: 5px; border-radius: 3px; background: rgb(128 128 128 / .18); margin-top: 5px; }
.bar i { display: block; height: 100%; border-radius: 3px; background: #2f7fd1; }
"""


def make_page(explored: Explored, *, tasks: dict[str, Task]):
    """The page as gradio's Blocks."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    def fill(text: str, most_tokens: float) -> str:
        try:
            return ways_as_html(fill_blanks(explored, text, most_tokens=int(most_tokens)))
        except UserError as error:
            raise gradio.Error(str(error), duration=8, print_exception=False) from error

    def columns_of(name: str) -> list:
        columns = tasks[name].text_column_name
        shown = [gradio.Textbox(label=column, visible=True, value="") for column in columns]
        return shown + [gradio.Textbox(visible=False)] * (MOST_COLUMNS - len(columns))

    def answer(name: str, most_tokens: float, *texts: str) -> tuple[str, str, str]:
        task = tasks[name]
        given = texts[: len(task.text_column_name)]
        found = answer_task(explored, task, given, most_tokens=int(most_tokens))
        return labels_as_html(found.labels), found.written or "(nothing)", found.read

    with gradio.Blocks(title=f"T5: {explored.name}", analytics_enabled=False) as page:
        gradio.Markdown(f"## Explore a T5\n{describe(explored)}")
        with gradio.Tab("Fill blanks"):
            text = gradio.Textbox(
                label="Text", lines=3, placeholder="The ___ sees the ___.", elem_id="blanks-text"
            )
            most = gradio.Slider(4, 128, value=32, step=4, label="Longest answer, tokens")
            button = gradio.Button("Fill", variant="primary", elem_id="blanks-fill")
            ways = gradio.HTML(elem_id="blanks-ways")
            for event in (button.click, text.submit):
                event(fill, [text, most], ways, api_name=False)
        with gradio.Tab("Answer a task"):
            first = next(iter(tasks))
            name = gradio.Dropdown(list(tasks), value=first, label="Task", elem_id="task-name")
            boxes = [
                gradio.Textbox(lines=2, label=column, visible=bool(column))
                for column in _padded(tasks[first].text_column_name)
            ]
            name.change(columns_of, name, boxes, api_name=False)
            longest = gradio.Slider(4, 256, value=64, step=4, label="Longest answer, tokens")
            ask = gradio.Button("Answer", variant="primary", elem_id="task-ask")
            labels = gradio.HTML(elem_id="task-labels")
            written = gradio.Textbox(label="Written", interactive=False, elem_id="task-written")
            read = gradio.Textbox(label="What the model read", interactive=False)
            ask.click(answer, [name, longest, *boxes], [labels, written, read], api_name=False)
    return page


def _padded(columns: Sequence[str]) -> list[str]:
    return [*columns, *[""] * (MOST_COLUMNS - len(columns))]


def serve(page, *, port: int, block: bool = True) -> None:
    """Serves the page on this machine alone, with the fonts that are there."""
    import gradio

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        theme=gradio.themes.Soft(primary_hue="blue", **fonts),
        css=STYLE,
    )
    print(f"explore    http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    if block:
        page.block_thread()


# ---- the program --------------------------------------------------------------------------------


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors."""

    def error(self, message: str):
        raise UserError(f"{message}. Type: python explore_t5.py MODEL [--port 7860]")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="explore_t5.py", description="A local page that fills blanks and answers tasks."
    )
    parser.add_argument("model", metavar="MODEL", help="folder, adapters alike, or Hub name")
    parser.add_argument("--port", type=int, default=7860, help="port on this machine; 7860")
    parser.add_argument("--task_file", metavar="FILE", help="YAML file with a task of your own")
    return parser.parse_args(argv)


def require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port} cannot be used here ({error}). Give another, as in --port 7861."
            ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Loads a model and serves its page until Ctrl-C."""
    arguments = parse_arguments(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("explore_t5.py needs gradio, which is not here: pip install gradio.")
    require_free_port(arguments.port)
    tasks = typed_tasks(arguments.task_file)
    page = make_page(Explored.load(arguments.model), tasks=tasks)
    serve(page, port=arguments.port)


if __name__ == "__main__":
    run_program(main)
