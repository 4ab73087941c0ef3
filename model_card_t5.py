"""The model card of a run: README.md in the Hub's format, beside a picture of the curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from constants import PUBLISHED_MODELS, PUBLISHED_SCORES, PUBLISHED_SOURCE
from curves_t5 import draw_curves
from run_records_t5 import scores_of
from whole_files import write_text

CURVES = "curves.png"
MOST_CHARACTERS = 240  # of a text in a table of predictions
SENTINEL = "<extra_id_"
MODEL_KINDS = {"adapter": "AutoPeftModelForSeq2SeqLM", "model": "AutoModelForSeq2SeqLM"}
# A benchmark whose tasks the Hub has a kind of its own for.
KINDS_OF_TASK = {"summarization": "summarization", "translation": "translation"}


@dataclass(frozen=True)
class Score:
    """One number of a task's split, and where its data is on the Hub, if it is there."""

    benchmark: str
    task: str  # with the split where it has several: mnli_matched
    split: str
    metric: str
    value: float
    hub_path: str | None = None
    hub_name: str | None = None


@dataclass(frozen=True)
class Sample:
    """What a model read, what was to be written, what it wrote."""

    read: str
    expected: str
    written: str


def write_model_card(
    folder: Path,
    *,
    title: str,
    summary: str,
    metrics: dict[str, float],
    log_history: list[dict],
    tags: Sequence[str],
    scores: Sequence[Score] = (),
    settings: dict[str, object] | None = None,
    data: Sequence[str] = (),
    datasets: Sequence[str] = (),
    samples: Sequence[Sample] = (),
    filled_texts: Sequence[str] = (),
    try_it_on: str = "",
    base_model: str | None = None,
    language: str | None = None,
) -> None:
    """README.md with metadata, scores, curves, data, predictions, settings and code to load it.

    `settings` are those that differ from the defaults, `data` lines of Markdown, `filled_texts`
    those of `samples_t5.filled_text`, `try_it_on` the text that the example gives to the model.
    """
    has_curves = draw_curves(log_history, path=folder / CURVES)
    sections = [
        f"# {title}\n\n{summary}",
        _table(["score", "value"], [(n, f"{v:.4g}") for n, v in scores_of(metrics).items()]),
        _published(scores),
        f"## Curves\n\n![loss, scores and learning rate by step]({CURVES})" if has_curves else "",
        _loading(folder, try_it_on),
        _predictions(samples),
        _blanks(filled_texts),
        "## Data\n\n" + "\n".join(f"* {line}" for line in data) if data else "",
        _settings(settings or {}),
    ]
    metadata = _metadata(
        scores, tags=tags, datasets=datasets, base_model=base_model, language=language, title=title
    )
    body = "\n\n".join(section for section in sections if section)
    write_text(folder / "README.md", f"---\n{metadata}\n---\n\n{body}\n")


def _metadata(
    scores: Sequence[Score],
    *,
    title: str,
    tags: Sequence[str],
    datasets: Sequence[str],
    base_model: str | None,
    language: str | None,
) -> str:
    """The card's YAML, as the Hub's own library writes it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=KINDS_OF_TASK.get(score.benchmark, "text-generation"),
            dataset_type=score.hub_path or score.benchmark,
            dataset_name=f"{score.benchmark}/{score.task}",
            dataset_config=score.hub_name,
            dataset_split=score.split,
            metric_type=score.metric,
            metric_value=round(score.value, 4),
        )
        for score in scores
    ]
    benchmarks = {score.benchmark for score in scores}
    kinds = {KINDS_OF_TASK[name] for name in benchmarks if name in KINDS_OF_TASK}
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag=kinds.pop() if len(kinds) == len(benchmarks) == 1 else None,
        language=language,
        base_model=base_model,
        tags=list(dict.fromkeys(tags)),
        datasets=list(dict.fromkeys(datasets)) or None,
        metrics=list(dict.fromkeys(score.metric for score in scores)) or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return card.to_yaml()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; '' without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])


def _published(scores: Sequence[Score]) -> str:
    """This run's held-out scores beside those that T5's authors report."""
    rows = []
    for score in scores:
        published = PUBLISHED_SCORES.get(score.benchmark, {}).get(score.task, {})
        if score.split.startswith("validation") and score.metric in published:
            values = ("–" if v is None else f"{v:.1f}" for v in published[score.metric])
            rows.append((f"{score.task} {score.metric}", f"**{score.value:.1f}**", *values))
    if not rows:
        return ""
    head = ["", "this model", *(f"T5 {name}" for name in PUBLISHED_MODELS)]
    return (
        f"## Beside T5's own scores\n\n{_table(head, rows)}\n\n"
        f"{PUBLISHED_SOURCE}. This model and T5's baseline were scored on validation sets, T5 "
        "small to 11B by the test sets of GLUE and SuperGLUE (SQuAD: validation set), after "
        "pre-training on a mixture with these tasks."
    )


def _loading(folder: Path, try_it_on: str) -> str:
    """Code that loads the folder and asks it something."""
    is_adapter = (folder / "adapter_config.json").exists()
    name = MODEL_KINDS["adapter" if is_adapter else "model"]
    lines = ["from transformers import AutoTokenizer"]
    if is_adapter:
        lines.insert(0, f"from peft import {name}")
    else:
        lines = [f"from transformers import {name}, AutoTokenizer"]
    text = " ".join(try_it_on.split())
    lines += [
        "",
        'folder = "."  # or where you put it, or its name on the Hub',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {name}.from_pretrained(folder)",
    ]
    if text:
        lines += [
            f'inputs = tokenizer({text!r}, return_tensors="pt")',
            "ids = model.generate(**inputs, max_new_tokens=32)",
            "print(tokenizer.decode(ids[0]))"
            if SENTINEL in text
            else "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
        ]
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _predictions(samples: Sequence[Sample]) -> str:
    rows = [[_cell(s.read), _cell(s.expected), _cell(s.written)] for s in samples]
    table = _table(["read", "expected", "written"], rows)
    return f"## Some predictions\n\nOf held-out data, the first ones.\n\n{table}" if table else ""


def _blanks(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    lines = "\n".join(f"> {_cell(text)}\n>" for text in texts)
    return f"## Blanks it filled in\n\nHeld-out text: [as it was => as written].\n\n{lines}"


def _cell(text: str) -> str:
    """One line that a Markdown table shows as it is."""
    line = " ".join(text.split())
    line = line if len(line) <= MOST_CHARACTERS else line[:MOST_CHARACTERS] + " ..."
    for sign in "\\`*_[]<>|&~":
        line = line.replace(sign, "\\" + sign)
    return line


def _code(value: object) -> str:
    """A value as code in a cell of a Markdown table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _settings(settings: dict[str, object]) -> str:
    intro = (
        "## Settings\n\nThose that differ from the defaults; all are in `run.yaml`, and "
        "`--config run.yaml` repeats the run."
    )
    rows = [(f"`{name}`", _code(value)) for name, value in settings.items()]
    table = _table(["setting", "value"], rows)
    return f"{intro}\n\n{table}" if table else intro
