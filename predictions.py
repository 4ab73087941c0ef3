"""Files of predictions, and what the benchmarks' sites take.

predictions/sst2.test.jsonl   {"idx": 0, "input": …, "target": …, "prediction": …, "label": …}
submission/glue.zip           CoLA.tsv, SST-2.tsv, …  each  index<TAB>prediction
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from readers import read_rows
from tasks import INVALID, find_task
from whole_files import replacing

COLUMNS = ("idx", "input", "target", "prediction", "label")

# What the site calls the predictions for 'task.split', and whether it takes words or numbers
# (t5/scripts/prepare_glue_submission.py; AX, which T5 leaves out, as the other MNLI files).
GLUE_FILES = {
    "cola.test": ("CoLA", "numbers"),
    "sst2.test": ("SST-2", "numbers"),
    "mrpc.test": ("MRPC", "numbers"),
    "stsb.test": ("STS-B", "numbers"),
    "qqp.test": ("QQP", "numbers"),
    "mnli.test_matched": ("MNLI-m", "words"),
    "mnli.test_mismatched": ("MNLI-mm", "words"),
    "qnli.test": ("QNLI", "words"),
    "rte.test": ("RTE", "words"),
    "wnli.test": ("WNLI", "numbers"),
    "ax.test": ("AX", "words"),
}
STSB_LOWEST, STSB_HIGHEST = 0.0, 5.0
LABEL_OF_INVALID = 0  # the site takes labels only
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


def write_predictions(rows: Iterable[Mapping[str, Any]], *, path: str | Path) -> Path:
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


def write_glue_submission(
    predictions: Mapping[str, Iterable[Mapping[str, Any]]], *, path: str | Path
) -> list[str]:
    """Writes the site's zip from {'sst2.test': rows, 'mnli.test_matched': rows, …}.

    Returns the names of the site's files for which there are no predictions; where there are none
    at all, nothing is written. Stored without compression and with one fixed time, the same
    predictions give the same bytes on every machine.
    """
    missing = [name for key, (name, _) in GLUE_FILES.items() if key not in predictions]
    if len(missing) == len(GLUE_FILES):
        return missing
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, (name, kind) in GLUE_FILES.items():
            if key in predictions:
                member = zipfile.ZipInfo(f"{name}.tsv", date_time=ZIP_EPOCH)
                member.create_system = 3  # Unix, also when written on Windows
                member.external_attr = 0o644 << 16
                archive.writestr(
                    member, _glue_table(key.split(".")[0], predictions[key], kind=kind)
                )
    return missing


def _glue_table(name: str, rows: Iterable[Mapping[str, Any]], *, kind: str) -> str:
    """Returns a header and a line for each row, in the order of the official row numbers."""
    task = find_task("glue", name)
    lines: dict[int, str] = {}
    for row in rows:
        assert row["idx"] not in lines, f"{name}: row {row['idx']} is predicted twice"
        answer = task.answer(row["prediction"])
        if task.labels is None:
            value = str(min(max(answer, STSB_LOWEST), STSB_HIGHEST))
        else:
            label = LABEL_OF_INVALID if answer == INVALID else answer
            value = task.labels[label] if kind == "words" else str(label)
        lines[row["idx"]] = f"{row['idx']}\t{value}\n"
    return "index\tprediction\n" + "".join(lines[index] for index in sorted(lines))


# {benchmark: writer of its zip}, for the benchmarks whose sites take one.
SUBMISSIONS = {"glue": write_glue_submission}
