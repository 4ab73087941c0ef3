"""Files of predictions, what the benchmarks' sites take, and a check of what is about to be sent.

    predictions/sst2.test.jsonl   {"idx": 0, "input": …, "target": …, "prediction": …, "label": …}
    submission/glue.zip           CoLA.tsv, SST-2.tsv, …     each  index<TAB>prediction
    submission/super_glue.zip     BoolQ.jsonl, CB.jsonl, …   each  {"idx": 0, "label": "true"}

    python predictions.py --check outputs/submission/glue.zip

says what is wrong with a zip and leaves with 2, or 0 where nothing is.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError, run_program
from readers import read_rows
from tasks import Task, find_task
from whole_files import plain_name, replacing

logger = logging.getLogger(__name__)

COLUMNS = ("idx", "input", "target", "prediction", "label")

Row = Mapping[str, Any]


# ---- predictions --------------------------------------------------------------------------------


def predictions_path(folder: Path, *, task: str, split: str) -> Path:
    """Where a task's answers go; names come from YAML files and flags, and stay in the folder."""
    return folder / "predictions" / f"{plain_name(f'{task}.{split}')}.jsonl"


def write_predictions(rows: Iterable[Row], *, path: str | Path) -> Path:
    """Writes one object per row; the file is complete or does not exist."""
    with replacing(path) as file:
        for row in rows:
            columns = {column: row[column] for column in COLUMNS}
            line = json.dumps(columns, ensure_ascii=False, default=lambda number: number.item())
            file.write(line.encode("utf-8") + b"\n")
    return Path(path)


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows that `write_predictions` wrote."""
    return list(read_rows(path))


# ---- what the sites call their files, and what stands in them -----------------------------------


@dataclass(frozen=True)
class SiteFile:
    """One file of a site's zip.

    keys        'task.split' of the predictions; of several the first that is there
    num_rows    official number of test rows (answers, for MultiRC): those of the Hub's data sets
                nyu-mll/glue and aps/super_glue
    form        what stands for a label: the task's words, numbers, true, True, a score or a text
    """

    keys: tuple[str, ...]
    num_rows: int
    form: str = "words"


# t5/scripts/prepare_glue_submission.py has the names and forms; AX, which it leaves out, as MNLI.
SITE_FILES: dict[str, dict[str, SiteFile]] = {
    "glue": {
        "CoLA": SiteFile(("cola.test",), 1063, "numbers"),
        "SST-2": SiteFile(("sst2.test",), 1821, "numbers"),
        "MRPC": SiteFile(("mrpc.test",), 1725, "numbers"),
        "STS-B": SiteFile(("stsb.test",), 1379, "score"),
        "QQP": SiteFile(("qqp.test",), 390965, "numbers"),
        "MNLI-m": SiteFile(("mnli.test_matched",), 9796),
        "MNLI-mm": SiteFile(("mnli.test_mismatched",), 9847),
        "QNLI": SiteFile(("qnli.test",), 5463),
        "RTE": SiteFile(("rte.test",), 3000),
        "WNLI": SiteFile(("wnli.test", "wnli_simple.test"), 146, "numbers"),
        "AX": SiteFile(("ax.test",), 1104),
    },
    "super_glue": {
        "BoolQ": SiteFile(("boolq.test",), 3245, "true"),
        "CB": SiteFile(("cb.test",), 250),
        "COPA": SiteFile(("copa.test",), 500, "numbers"),
        "MultiRC": SiteFile(("multirc.test",), 9693, "numbers"),
        "ReCoRD": SiteFile(("record.test",), 10000, "text"),
        "RTE": SiteFile(("rte.test",), 3000),
        "WiC": SiteFile(("wic.test",), 1400, "true"),
        "WSC": SiteFile(("wsc.test",), 146, "True"),
        "AX-b": SiteFile(("axb.test",), 1104),
        "AX-g": SiteFile(("axg.test",), 356),
    },
}
NESTED = "MultiRC"  # one line for each paragraph; its numbering is known from the test rows only
SUFFIXES = {"glue": ".tsv", "super_glue": ".jsonl"}
GLUE_HEADER = "index\tprediction"
STSB_LOWEST, STSB_HIGHEST = 0.0, 5.0
LABEL_OF_INVALID = 0  # the sites take labels only
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
PAIRS = {"true": ("false", "true"), "True": ("False", "True")}


def _allowed(benchmark: str, file: SiteFile) -> tuple[Any, ...] | None:
    """The values that may stand for labels, by the label's index; None: any text or score."""
    if file.form in PAIRS:
        return PAIRS[file.form]
    if file.form in ("score", "text"):
        return None
    words = tuple(_task(benchmark, file).labels.values())
    return words if file.form == "words" else tuple(range(len(words)))


def _task(benchmark: str, file: SiteFile, key: str | None = None) -> Task:
    return find_task(benchmark, (key or file.keys[0]).split(".")[0])


def _value(row: Row, *, file: SiteFile, task: Task, allowed: tuple[Any, ...] | None) -> Any:
    """What stands in the site's file for a predicted row."""
    if file.form == "text":
        return row["prediction"].strip()
    # Where only the row itself says what a text stands for (WSC), whoever had it left the answer.
    answer = row["answer"] if "answer" in row else task.answer(row["prediction"])
    if file.form == "score":
        return min(max(float(answer), STSB_LOWEST), STSB_HIGHEST)
    return allowed[answer if answer in range(len(allowed)) else LABEL_OF_INVALID]


# ---- writing a zip ------------------------------------------------------------------------------


def write_submission(
    predictions: Mapping[str, Iterable[Row]], *, benchmark: str, path: str | Path
) -> list[str]:
    """Writes the site's zip from {'sst2.test': rows, 'mnli.test_matched': rows, …}.

    Returns the names of the site's files for which there are no predictions. The sites want every
    file, so these hold one valid answer for every official test row (MultiRC's cannot be made up
    without its rows and is left out). A warning names them, and files with another number of rows
    than the test set. Where there are no predictions at all, nothing is written. Stored without
    compression and with one fixed time, the same predictions give the same bytes on every machine.
    A row may bring its `answer`.
    """
    files = SITE_FILES[benchmark]
    rows_of = {
        name: (key, list(predictions[key]))
        for name, file in files.items()
        for key in [next((key for key in file.keys if key in predictions), None)]
        if key is not None
    }
    missing = [name for name in files if name not in rows_of]
    if not rows_of:
        return missing
    suffix, text_of = SUFFIXES[benchmark], WRITERS[benchmark]
    other_counts = []
    with replacing(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, file in files.items():
            if name in rows_of:
                lines = _lines(benchmark, name, *rows_of[name])
                if len(lines) != file.num_rows:
                    other_counts.append(f"{name} has {len(lines):,} rows of {file.num_rows:,}")
            elif name == NESTED:
                continue
            else:
                lines = dict.fromkeys(range(file.num_rows), _filler(benchmark, file))
            member = zipfile.ZipInfo(f"{name}{suffix}", date_time=ZIP_EPOCH)
            member.create_system = 3  # Unix, also when written on Windows
            member.external_attr = 0o644 << 16
            archive.writestr(member, text_of(name, lines))
    if missing or other_counts:
        logger.warning(_warning(path, missing, other_counts))
    return missing


def _warning(path: str | Path, missing: Sequence[str], other_counts: Sequence[str]) -> str:
    filled = [name for name in missing if name != NESTED]
    parts = [", ".join(other_counts)] if other_counts else []
    if filled:
        parts.append(
            f"{', '.join(filled)} hold one answer for every row, because there are no predictions; "
            "their scores mean nothing"
        )
    if NESTED in missing:
        parts.append(f"{NESTED} is missing, because only its test rows say how they are numbered")
    return f"{path}: {'; '.join(parts)}."


def _filler(benchmark: str, file: SiteFile) -> Any:
    allowed = _allowed(benchmark, file)
    if allowed is not None:
        return allowed[LABEL_OF_INVALID]
    return STSB_LOWEST if file.form == "score" else ""


def _lines(benchmark: str, name: str, key: str, rows: Iterable[Row]) -> dict[Any, Any]:
    """{official row number: value}; MultiRC's numbers are (paragraph, question, answer)."""
    file = SITE_FILES[benchmark][name]
    task, allowed = _task(benchmark, file, key), _allowed(benchmark, file)
    lines: dict[Any, Any] = {}
    for row in rows:
        number = _number(row["idx"])
        if number in lines:
            raise UserError(
                f"{name} ({key}): the row with idx {row['idx']} is predicted twice. Give each test "
                "row once, with the idx that the data set has."
            )
        lines[number] = _value(row, file=file, task=task, allowed=allowed)
    return {number: lines[number] for number in sorted(lines)}


def _number(idx: Any) -> Any:
    """An official row number: of ReCoRD the query's, of MultiRC all three."""
    try:
        if not isinstance(idx, Mapping):
            return int(idx)
        if "answer" in idx:
            return tuple(int(idx[part]) for part in ("paragraph", "question", "answer"))
        return int(idx["query"])
    except (TypeError, ValueError, KeyError):
        raise UserError(
            f"idx {idx!r} is no official row number. Give the test rows the idx that the data set "
            "has: a number, {'passage', 'query'} for ReCoRD, {'paragraph', 'question', 'answer'} "
            "for MultiRC."
        ) from None


def _glue_text(name: str, lines: Mapping[int, Any]) -> str:
    rows = "".join(f"{number}\t{value}\n" for number, value in lines.items())
    return f"{GLUE_HEADER}\n{rows}"


def _super_glue_text(name: str, lines: Mapping[Any, Any]) -> str:
    if name != NESTED:
        objects = [{"idx": number, "label": value} for number, value in lines.items()]
    else:
        objects = _paragraphs(lines)
    return "".join(json.dumps(line) + "\n" for line in objects)


def _paragraphs(lines: Mapping[tuple[int, int, int], int]) -> list[dict[str, Any]]:
    """{(0, 5, 9): 1} -> [{"idx": 0, "passage": {"questions": [{"idx": 5, "answers": […]}]}}]"""
    tree: dict[int, dict[int, list[dict[str, int]]]] = {}
    for (paragraph, question, answer), value in lines.items():
        answers = tree.setdefault(paragraph, {}).setdefault(question, [])
        answers.append({"idx": answer, "label": value})
    return [
        {
            "idx": paragraph,
            "passage": {
                "questions": [
                    {"idx": question, "answers": answers} for question, answers in questions.items()
                ]
            },
        }
        for paragraph, questions in tree.items()
    ]


WRITERS: dict[str, Callable[[str, Mapping[Any, Any]], str]] = {
    "glue": _glue_text,
    "super_glue": _super_glue_text,
}

# {benchmark: writer of its zip}, for the benchmarks whose sites take one.
SUBMISSIONS = {
    benchmark: functools.partial(write_submission, benchmark=benchmark) for benchmark in SITE_FILES
}


# ---- checking a zip -----------------------------------------------------------------------------


def check_submission(path: str | Path) -> tuple[str | None, list[str]]:
    """Returns the benchmark that a zip is for, and everything that its site would not take."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            members = {
                info.filename: archive.read(info)
                for info in archive.infolist()
                if not info.is_dir() and info.filename != broken
            }
    except (OSError, zipfile.BadZipFile) as error:
        return None, [f"it cannot be read as a zip ({error})"]
    problems = [f"{broken} is damaged"] if broken else []
    fitting = {
        benchmark: sum(Path(name).suffix == suffix for name in members)
        for benchmark, suffix in SUFFIXES.items()
    }
    benchmark = max(fitting, key=fitting.__getitem__)
    if not fitting[benchmark]:
        kinds = ", nor ".join(f"{suffix} ({name})" for name, suffix in SUFFIXES.items())
        return None, [*problems, f"it holds no file of a site, neither {kinds}"]
    return benchmark, [*problems, *_problems_of_members(benchmark, members)]


def _problems_of_members(benchmark: str, members: Mapping[str, bytes]) -> Iterator[str]:
    wanted = {f"{name}{SUFFIXES[benchmark]}": name for name in SITE_FILES[benchmark]}
    nested = {Path(member).name: member for member in members if member not in wanted}
    for member, name in wanted.items():
        if member in members:
            try:
                text = members[member].decode("utf-8")
            except UnicodeDecodeError as error:
                yield f"{member} is not UTF-8 ({error})"
                continue
            yield from (
                f"{member}: {problem}" for problem in _problems_of_file(benchmark, name, text)
            )
        elif member in nested:
            yield f"{member} lies in a folder, as {nested[member]}; the site wants it at the top"
        else:
            yield f"{member} is missing"
    for base, member in nested.items():
        if base not in wanted:
            yield f"{member} is no file of the site"


def _problems_of_file(benchmark: str, name: str, text: str) -> Iterator[str]:
    """Yields what is wrong in one file: its header, lines, numbers, rows and values."""
    file = SITE_FILES[benchmark][name]
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    lines = [line.removesuffix("\r") for line in lines]
    first = 1
    if benchmark == "glue":
        header, *lines = lines or [""]
        first = 2
        if header != GLUE_HEADER:
            yield f"the header is {header!r}, but must be {GLUE_HEADER!r}"
    pairs_of = _glue_pairs if benchmark == "glue" else _super_glue_pairs
    allowed = _allowed(benchmark, file)
    if benchmark == "glue" and allowed is not None:
        allowed = tuple(map(str, allowed))  # in a .tsv all is text
    numbers: list[Any] = []
    wrong: list[str] = []
    for line_number, line in enumerate(lines, start=first):
        try:
            for number, value in pairs_of(name, line):
                numbers.append(number)
                if problem := _problem_of_value(file, value, allowed):
                    wrong.append(f"line {line_number}: {problem}")
        except (ValueError, KeyError, TypeError) as error:
            wrong.append(f"line {line_number} is not {FORMS[benchmark]} ({error})")
    yield from _some(wrong)
    yield from _problems_of_numbers(name, file, numbers)


FORMS = {
    "glue": "a row number, a tab and a prediction",
    "super_glue": 'an object like {"idx": 0, "label": …}',
}
NUM_PROBLEMS_SHOWN = 3


def _some(problems: Sequence[str]) -> Iterator[str]:
    yield from problems[:NUM_PROBLEMS_SHOWN]
    if len(problems) > NUM_PROBLEMS_SHOWN:
        yield f"and {len(problems) - NUM_PROBLEMS_SHOWN:,} more lines like these"


def _glue_pairs(name: str, line: str) -> Iterator[tuple[int, str]]:
    number, value = line.split("\t")
    yield int(number), value


def _super_glue_pairs(name: str, line: str) -> Iterator[tuple[Any, Any]]:
    row = json.loads(line)
    if name != NESTED:
        yield _whole(row["idx"]), row["label"]
        return
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            numbers = (row["idx"], question["idx"], answer["idx"])
            yield tuple(map(_whole, numbers)), answer["label"]


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"idx is {number!r}, no whole number")
    return number


def _problem_of_value(file: SiteFile, value: Any, allowed: tuple[Any, ...] | None) -> str | None:
    """In a .jsonl, 0 is not "0" and "true" is not true."""
    if allowed is not None:
        if not any(type(value) is type(known) and value == known for known in allowed):
            return f"{value!r} is none of {', '.join(map(repr, allowed))}"
    elif file.form == "text":
        return None if isinstance(value, str) else f"{value!r} is no text"
    elif not STSB_LOWEST <= float(value) <= STSB_HIGHEST:
        return f"{value} is not between {STSB_LOWEST:g} and {STSB_HIGHEST:g}"
    return None


def _problems_of_numbers(name: str, file: SiteFile, numbers: Sequence[Any]) -> Iterator[str]:
    if len(numbers) != file.num_rows:
        yield f"{len(numbers):,} rows, but the test set has {file.num_rows:,}"
    seen = set(numbers)
    if len(seen) < len(numbers):
        twice = sorted(number for number, n in collections.Counter(numbers).items() if n > 1)
        yield f"idx {_few(twice)}: more than once"
    if name != NESTED:
        official = set(range(file.num_rows))
        for found, verdict in ((official - seen, "missing"), (seen - official, "unknown")):
            if found:
                yield f"idx {_few(sorted(found))}: {verdict}"


def _few(numbers: Sequence[Any]) -> str:
    text = ", ".join(map(str, numbers[:NUM_PROBLEMS_SHOWN]))
    rest = len(numbers) - NUM_PROBLEMS_SHOWN
    return f"{text} and {rest:,} more" if rest > 0 else text


def main(argv: Sequence[str] | None = None) -> None:
    """Checks one zip; what is wrong with it is a UserError, and so exit code 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", metavar="FILE.zip", required=True, help="the zip to be sent")
    path = parser.parse_args(argv).check
    benchmark, problems = check_submission(path)
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"--check {path}: {benchmark or 'no known'} submission, {len(problems)} problem(s):"
            f"{listed}\nWrite the zip again with fine_tune_t5.py --do_predict on every test set."
        )
    print(f"{path}: {benchmark}, {len(SITE_FILES[benchmark])} files, nothing wrong")


if __name__ == "__main__":
    run_program(main)
