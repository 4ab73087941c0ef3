"""The splits of one task or of several: which are read, what their metrics are called, and what is
said of them together.

    one task, one split     eval_accuracy
    one task, two splits    eval_mnli_matched_accuracy, eval_mnli_mismatched_accuracy, and their
                            mean, eval_accuracy
    several tasks           eval_{task}_{metric}, and eval_mean: the mean over tasks of the metric
                            that each task is optimised by (the mean over its splits)
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from answers_t5 import Answer, Answering, LabelWords
from errors import UserError
from metrics import benchmark_average, find_metric, score
from readers import expand_files, read_rows
from task_rows_t5 import TaskDataset
from tasks import FLAG_OF_ROLE, Task, checked_rows, find_task, load_rows, split_file, tasks_of

ALL = "all"
PREFIX_OF_ROLE = {"validation": "eval", "test": "test"}


# ---- which tasks --------------------------------------------------------------------------------


def find_tasks(benchmark: str | None, names: str | None, *, task_file: str | None) -> list[Task]:
    """The tasks of a comma list: 'sst2,mrpc', 'glue/sst2,super_glue/cb', 'all', 'super_glue/all'.

    'all' is every task of the benchmark: its mixture, and what is evaluated only.
    """
    tasks: list[Task] = []
    for name in [part.strip() for part in (names or "").split(",")] if names else [None]:
        own, slash, rest = (name or "").partition("/")
        place, name = (own, rest) if slash else (benchmark, name)
        chosen = tasks_of(place, task_file=task_file) if name == ALL else [name]
        tasks += [find_task(place, one, task_file=task_file) for one in chosen]
    twice = sorted({str(task) for task in tasks if tasks.count(task) > 1})
    if twice:
        raise UserError(f"--dataset_name {names} names {', '.join(twice)} more than once.")
    for task in tasks:
        for metric in task.metric_names:
            find_metric(metric)  # a misspelt one is said now, not after training
    return tasks


def task_stems(tasks: Sequence[Task]) -> list[str]:
    """What metrics and files call each task: its name, with the benchmark where names repeat."""
    names = [task.name for task in tasks]
    return [
        task.name if names.count(task.name) == 1 else f"{task.benchmark}_{task.name}"
        for task in tasks
    ]


# ---- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sources:
    """Where rows come from: files by role, else `data_dir`, else the Hub; None: no limit."""

    files: dict[str, str | None]
    data_dir: str | None
    most: dict[str, int | None]

    def folder_of(self, task: Task) -> Path | None:
        """`data_dir`, or the benchmark's folder in it where there is one.

        A task whose benchmark has its own name, as a task file's only one, may have its files in
        DIR/{task}/: that folder is the task's, not the benchmark's.
        """
        if self.data_dir is None:
            return None
        folder = Path(self.data_dir)
        of_benchmark = folder / task.benchmark
        is_the_tasks = _has_rows(task, folder) and not _has_rows(task, of_benchmark)
        return of_benchmark if of_benchmark.is_dir() and not is_the_tasks else folder

    @property
    def is_local(self) -> bool:
        """True where some rows are read from here."""
        return self.data_dir is not None or any(self.files.values())

    def is_on_hub(self, task: Task, role: str) -> bool:
        """True where a role of a task is read from the Hub; a test split missing here is not."""
        is_here = self.data_dir is not None or bool(self.files[role])
        is_left_out = role == "test" and self.is_local
        return role in task.splits and task.hub_path is not None and not (is_here or is_left_out)

    def splits(self, task: Task, *, role: str) -> Iterator[tuple[str, list[dict]]]:
        """(split, rows) of one role; a test split may be missing, the others may not."""
        patterns = self.files[role]
        if patterns:
            rows = itertools.chain.from_iterable(
                checked_rows(task, read_rows(path), source=str(path), role=role)
                for path in expand_files(patterns, flag=FLAG_OF_ROLE[role])
            )
            yield task.splits[role][0], list(itertools.islice(rows, self.most[role]))
            return
        folder = self.folder_of(task)
        for split in task.splits[role]:
            has_file = folder and split_file(task, split, data_dir=folder)
            if role == "test" and self.is_local and not has_file:
                continue
            yield split, load_rows(task, split, data_dir=folder, max_rows=self.most[role])

    def require(self, tasks: Sequence[Task], *, needing: dict[str, Sequence[Task]]) -> None:
        """Names all files that several tasks lack, before any is read."""
        if len(tasks) == 1:
            return
        given = [FLAG_OF_ROLE[role] for role, patterns in self.files.items() if patterns]
        if given:
            raise UserError(
                f"{', '.join(given)} is for one task, and --dataset_name names {len(tasks)}. Give "
                "their rows with --data_dir DIR, as DIR/{task}.{split}.jsonl."
            )
        if self.data_dir is None:
            return
        lacking = {
            str(task): f"{task} ({', '.join(splits)})"
            for task in tasks
            if (splits := list(self._lacking(task, needing=needing)))
        }
        if lacking:
            whole = ",".join(str(task) for task in tasks if str(task) not in lacking)
            remedy = f" Those that are whole: --dataset_name {whole}." if whole else ""
            raise UserError(
                f"--data_dir {self.data_dir} lacks {len(lacking)} of {len(tasks)} tasks: "
                f"{'; '.join(lacking.values())}.{remedy}"
            )

    def _lacking(self, task: Task, *, needing: dict[str, Sequence[Task]]) -> Iterator[str]:
        for role, tasks in needing.items():
            for split in task.splits.get(role, ()) if task in tasks else ():
                if not split_file(task, split, data_dir=self.folder_of(task)):
                    yield split


def count_rows(sources: Sources, *, roles: dict[str, Sequence[Task]]) -> dict[str, dict[str, int]]:
    """{role: {task: examples}} of what a run would read; every row is read for it."""
    return {
        role: {
            str(task): sum(len(rows) for _, rows in sources.splits(task, role=role))
            for task in tasks
            if role in task.splits
        }
        for role, tasks in roles.items()
    }


def _has_rows(task: Task, folder: Path) -> bool:
    splits = itertools.chain.from_iterable(task.splits.values())
    return any(split_file(task, split, data_dir=folder) for split in splits)


@dataclass
class TaskSets:
    """The encoded splits of one task, by the source's names for them."""

    task: Task
    stem: str
    by_name: dict[str, TaskDataset]
    is_alone: bool = True

    @classmethod
    def read(
        cls,
        task: Task,
        *,
        stem: str,
        sources: Sources,
        roles: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        input_length_tokens: int,
        target_length_tokens: int,
        is_alone: bool = True,
    ) -> TaskSets:
        """The splits of these roles."""
        found = {
            name: TaskDataset(
                rows,
                task=task,
                tokenizer=tokenizer,
                input_length_tokens=input_length_tokens,
                target_length_tokens=target_length_tokens,
            )
            for role in roles
            if role in task.splits
            for name, rows in sources.splits(task, role=role)
        }
        return cls(task, stem, found, is_alone)

    def of_role(self, role: str) -> dict[str, TaskDataset]:
        """{split: data} of 'train', 'validation' or 'test'."""
        names = self.task.splits.get(role, ())
        return {name: self.by_name[name] for name in names if name in self.by_name}

    @property
    def train(self) -> TaskDataset | None:
        return next(iter(self.of_role("train").values()), None)

    def metric_name(self, split: str, *, role: str) -> str:
        """validation_matched -> mnli_matched; '' for the only split of the only task."""
        if self.is_alone and len(self.of_role(role)) < 2:
            return ""
        return self.stem + split.removeprefix(role)

    def prefix(self, split: str, *, role: str) -> str:
        """The metric prefix of a split: eval, test, or eval_mnli_matched beside others."""
        name = self.metric_name(split, role=role)
        return f"{PREFIX_OF_ROLE[role]}_{name}" if name else PREFIX_OF_ROLE[role]

    def scored(self) -> Iterator[tuple[str, str, str, TaskDataset]]:
        """(metric prefix, role, split, data) of every split that is scored."""
        for role in PREFIX_OF_ROLE:
            for split, data in self.of_role(role).items():
                yield self.prefix(split, role=role), role, split, data

    def describe(self) -> str:
        """Rows, lengths and what was cut, one line per split."""
        lines = [f"task       {self.task}, scored by {', '.join(self.task.metric_names)}"]
        for name, data in self.by_name.items():
            lengths = f"inputs up to {max(map(len, data.input_ids))} tokens, "
            if not data.has_hidden_labels:
                lengths += f"targets up to {max(map(len, data.labels))}, "
            lines.append(
                f"{name:<10} {len(data):,} rows, {lengths}truncated: "
                f"{data.num_truncated_inputs / len(data):.2%} of inputs, "
                f"{data.num_truncated_targets / len(data):.2%} of targets; "
                f"{data.unknown_share:.2%} of tokens unknown"
            )
        return "\n".join(lines)


# ---- answers ------------------------------------------------------------------------------------


def answer_with(
    sets: TaskSets,
    way: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    most_tokens: int,
    beams: dict | None = None,
) -> None:
    """Sets how the task's splits are answered, see `answering_of`."""
    answering = answering_of(sets, way, tokenizer=tokenizer, most_tokens=most_tokens, beams=beams)
    for data in sets.by_name.values():
        data.answering = answering


def answering_of(
    sets: TaskSets,
    way: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    most_tokens: int,
    beams: dict | None = None,
    default_tokens: int | None = None,
) -> Answering:
    """How a task is answered by 'generate', 'rank' or 'teacher_forcing'.

    Text is generated as long as the longest target of the labelled rows needs, EOS included, or the
    longest label word; `default_tokens` where there are neither, and `most_tokens` at most. A task
    without label words is not ranked but generates.
    """
    if way == "teacher_forcing":
        return Answering()
    if way == "rank" and sets.task.labels:
        words = label_words(sets.task, tokenizer=tokenizer, length_tokens=most_tokens)
        return Answering(words=words)
    length = target_tokens(sets, tokenizer=tokenizer, most_tokens=most_tokens)
    length = min(length or default_tokens or most_tokens, most_tokens)
    return Answering(generation=generation_settings(length, beams=beams))


def label_words(
    task: Task, *, tokenizer: PreTrainedTokenizerBase, length_tokens: int
) -> LabelWords:
    """The task's label words as it writes them."""
    return LabelWords.encode(task.labels.values(), tokenizer=tokenizer, length_tokens=length_tokens)


def target_tokens(
    sets: TaskSets, *, tokenizer: PreTrainedTokenizerBase, most_tokens: int
) -> int | None:
    """Tokens of the longest target, EOS included; None where no row has one."""
    task = sets.task
    lengths = [
        int(data.lengths(0)[:, 1].max())
        for data in sets.by_name.values()
        if not data.has_hidden_labels
    ]
    if task.labels:
        words = label_words(task, tokenizer=tokenizer, length_tokens=most_tokens)
        lengths.append(words.longest_tokens)
    return max(lengths, default=None)


def generation_settings(max_new_tokens: int, *, beams: dict | None = None) -> dict:
    """What `generate` is called with: greedily, or with beams.

    A beam search ends when no open beam can still win, as T5's does (mesh_tensorflow's beam search
    bounds the score by that of the full length); the library's length penalty divides by
    length ** alpha, T5's by ((5 + length) / 6) ** alpha.
    """
    greedy = {"max_new_tokens": max_new_tokens, "num_beams": 1, "do_sample": False}
    return greedy if beams is None else {**greedy, "early_stopping": "never", **beams}


def score_answers(dataset: TaskDataset, answers: list[Answer]) -> dict[str, float]:
    """The task's metrics, 0-100, on the text of the answers."""
    if any(answer.text is None for answer in answers):
        return {}
    task = dataset.task
    rows = [dataset.rows[answer.example] for answer in answers]
    certainties = None
    if task.labels and 1 in task.labels and all(answer.word_scores for answer in answers):
        place = list(task.labels).index(1)
        certainties = [answer.probabilities[place] for answer in answers]
    return score(
        task.metric_names,
        [task.reference(row) for row in rows],
        [task.answer(answer.text, row) for answer, row in zip(answers, rows, strict=True)],
        labels=task.labels,
        groups=[task.group(row) for row in rows],
        certainties=certainties,
    )


# ---- several sets together ----------------------------------------------------------------------


def task_scores(
    sets: Sequence[TaskSets], metrics: dict[str, float], prefix: str
) -> dict[str, dict[str, float]]:
    """{stem: {metric: mean over the task's splits}} of what was scored; loss and accuracy too."""
    role = next(role for role, name in PREFIX_OF_ROLE.items() if name == prefix)
    found: dict[str, dict[str, float]] = {}
    for task_sets in sets:
        names = ("loss", "token_accuracy", *task_sets.task.metric_names)
        prefixes = [task_sets.prefix(split, role=role) for split in task_sets.of_role(role)]
        means = {
            name: statistics.fmean(metrics[f"{p}_{name}"] for p in prefixes)
            for name in names
            if prefixes and all(f"{p}_{name}" in metrics for p in prefixes)
        }
        if means:
            found[task_sets.stem] = means
    return found


def summary_of(
    sets: Sequence[TaskSets], metrics: dict[str, float], prefix: str
) -> dict[str, float]:
    """What is said of several sets together, see the drawing above."""
    scores = task_scores(sets, metrics, prefix)
    means = {
        "_".join(filter(None, (prefix, "" if task_sets.is_alone else task_sets.stem, name))): value
        for task_sets in sets
        for name, value in scores.get(task_sets.stem, {}).items()
        if name != "loss"  # of all sets it is per token, not per set; the trainer has it
    }
    means = {name: value for name, value in means.items() if name not in metrics}
    if len(sets) == 1:
        return means
    primary = [
        primary_score(task_sets.task, scores[task_sets.stem])
        for task_sets in sets
        if task_sets.task.metric_to_optimize in scores.get(task_sets.stem, {})
    ]
    averages = {
        f"{prefix}_{benchmark}_average": average
        for benchmark in dict.fromkeys(task_sets.task.benchmark for task_sets in sets)
        if (average := average_of(benchmark, sets, metrics, prefix)[0]) is not None
    }
    return means | ({f"{prefix}_mean": statistics.fmean(primary)} if primary else {}) | averages


def average_of(
    benchmark: str, sets: Sequence[TaskSets], metrics: dict[str, float], prefix: str
) -> tuple[float | None, list[str]]:
    """The benchmark's own average, None where tasks are missing, and their names."""
    scores = {
        task_sets.task.name + split.removeprefix(role): {
            name: metrics[f"{set_prefix}_{name}"]
            for name in task_sets.task.metric_names
            if f"{set_prefix}_{name}" in metrics
        }
        for task_sets in sets
        if task_sets.task.benchmark == benchmark
        for set_prefix, role, split, _ in task_sets.scored()
        if PREFIX_OF_ROLE[role] == prefix
    }
    return benchmark_average(benchmark, scores)


def primary_score(task: Task, scores: dict[str, float]) -> float:
    """The task's own metric; 100 minus it where less is better, so that means can be compared."""
    value = scores[task.metric_to_optimize]
    return value if find_metric(task.metric_to_optimize).greater_is_better else 100 - value


def score_table(sets: Sequence[TaskSets], metrics: dict[str, float], prefix: str) -> str:
    """One line per task with its scores, then the mean, and what selects the best model."""
    scores = task_scores(sets, metrics, prefix)
    if len(sets) < 2 or not scores:
        return ""
    width = max(map(len, (*scores, "mean")))
    lines = [f"{prefix} scores"]
    for task_sets in sets:
        means = scores.get(task_sets.stem, {})
        shown = [
            f"{name} {means[name]:.2f}" for name in task_sets.task.metric_names if name in means
        ]
        if shown:
            lines.append(f"  {task_sets.stem:<{width}}  {'  '.join(shown)}")
    if f"{prefix}_mean" in metrics:
        what = "over tasks, of the metric that each is optimised by"
        lines.append(f"  {'mean':<{width}}  {metrics[f'{prefix}_mean']:.2f}  ({what})")
    for benchmark in dict.fromkeys(task_sets.task.benchmark for task_sets in sets):
        average, missing = average_of(benchmark, sets, metrics, prefix)
        if average is not None:
            lines.append(f"  {benchmark}'s own average  {average:.2f}")
        elif missing:
            lines.append(f"  no average of {benchmark}: {', '.join(missing)} not scored")
    return "\n".join(lines)
