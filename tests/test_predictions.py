"""Proves that predictions come back as they were written and never half, and that the GLUE zip
holds the names, the header, the words, numbers and row order that the site takes, the same bytes
each time, and nothing for tasks without predictions.
"""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from constants import DATASET_VALS
from predictions import (
    GLUE_FILES,
    read_predictions,
    replacing,
    write_glue_submission,
    write_predictions,
)
from tasks import find_task


def row(idx: int, prediction: str) -> dict:
    return {"idx": idx, "input": "i", "target": "<unk>", "prediction": prediction, "label": -1}


def test_predictions_come_back(tmp_path):
    rows = [
        {"idx": 0, "input": "ünï \u2028", "target": "a\n", "prediction": '"', "label": 1},
        {"idx": {"paragraph": 1}, "input": "", "target": "", "prediction": "", "label": None},
    ]
    path = write_predictions(rows, path=tmp_path / "predictions" / "sst2.test.jsonl")
    assert read_predictions(path) == rows
    first = path.read_bytes().split(b"\n")[0].decode("utf-8")
    assert (
        first
        == '{"idx": 0, "input": "ünï \u2028", "target": "a\\n", "prediction": "\\"", "label": 1}'
    )


def test_numbers_of_numpy(tmp_path):
    rows = [{**row(0, "a"), "idx": np.int64(3), "label": np.float32(0.5)}]
    (read,) = read_predictions(write_predictions(rows, path=tmp_path / "a.jsonl"))
    assert (read["idx"], read["label"]) == (3, 0.5)


def test_only_the_columns_of_the_contract_in_their_order(tmp_path):
    rows = [{"more": 1, **dict(reversed(row(0, "a").items()))}]
    path = write_predictions(rows, path=tmp_path / "a.jsonl")
    assert list(json.loads(path.read_text())) == ["idx", "input", "target", "prediction", "label"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_predictions([row(0, "old")], path=tmp_path / "a.jsonl")

    def failing():
        yield row(0, "new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_predictions(failing(), path=path)
    assert [r["prediction"] for r in read_predictions(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_when_it_is_complete(tmp_path):
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"x")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == b"x"


# ---- submission ---------------------------------------------------------------------------------

GOLDEN = {
    "cola.test": ("CoLA.tsv", ["acceptable", "unacceptable"], ["1", "0"]),
    "sst2.test": ("SST-2.tsv", ["positive", "negative"], ["1", "0"]),
    "mrpc.test": ("MRPC.tsv", ["equivalent", "not_equivalent"], ["1", "0"]),
    "stsb.test": ("STS-B.tsv", ["3.4", "0.0"], ["3.4", "0.0"]),
    "qqp.test": ("QQP.tsv", ["duplicate", "not_duplicate"], ["1", "0"]),
    "mnli.test_matched": ("MNLI-m.tsv", ["neutral", "entailment"], ["neutral", "entailment"]),
    "mnli.test_mismatched": (
        "MNLI-mm.tsv",
        ["contradiction", "neutral"],
        ["contradiction", "neutral"],
    ),
    "qnli.test": (
        "QNLI.tsv",
        ["not_entailment", "entailment"],
        ["not_entailment", "entailment"],
    ),
    "rte.test": ("RTE.tsv", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
    "wnli.test": ("WNLI.tsv", ["entailment", "not_entailment"], ["1", "0"]),
    "ax.test": ("AX.tsv", ["contradiction", "entailment"], ["contradiction", "entailment"]),
}
ALL = {key: [row(i, text) for i, text in enumerate(texts)] for key, (_, texts, _) in GOLDEN.items()}


def members(path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def test_every_file_of_the_site(tmp_path):
    path = tmp_path / "submission" / "glue.zip"
    assert write_glue_submission(ALL, path=path) == []
    expected = {
        name: "index\tprediction\n" + "".join(f"{i}\t{v}\n" for i, v in enumerate(values))
        for name, _, values in GOLDEN.values()
    }
    assert members(path) == expected


def test_every_test_split_has_a_file():
    splits = {
        f"{name}.{split}"
        for name in DATASET_VALS["glue"]
        for split in find_task("glue", name).splits["test"]
    }
    assert splits == set(GLUE_FILES) == set(GOLDEN)


def test_the_same_bytes_each_time(tmp_path, monkeypatch):
    write_glue_submission(ALL, path=tmp_path / "a.zip")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    shuffled = {key: ALL[key][::-1] for key in reversed(ALL)}
    write_glue_submission(shuffled, path=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_rows_are_in_the_order_of_their_official_numbers(tmp_path):
    rows = [row(10, "positive"), row(2, "negative"), row(0, "positive")]
    write_glue_submission({"sst2.test": rows}, path=tmp_path / "glue.zip")
    table = "index\tprediction\n0\t1\n2\t0\n10\t1\n"
    assert members(tmp_path / "glue.zip") == {"SST-2.tsv": table}


def test_missing_tasks_are_named(tmp_path):
    some = {key: ALL[key] for key in ("sst2.test", "mnli.test_matched")}
    missing = write_glue_submission({**some, "sst2.validation": []}, path=tmp_path / "glue.zip")
    assert missing == "CoLA MRPC STS-B QQP MNLI-mm QNLI RTE WNLI AX".split()
    assert sorted(members(tmp_path / "glue.zip")) == ["MNLI-m.tsv", "SST-2.tsv"]


def test_no_task_no_file(tmp_path):
    assert len(write_glue_submission({}, path=tmp_path / "glue.zip")) == 11
    assert list(tmp_path.iterdir()) == []


def test_the_site_gets_a_label_for_an_invalid_answer_and_numbers_in_its_range(tmp_path):
    predictions = {
        "sst2.test": [row(0, "good")],
        "rte.test": [row(0, "<unk>")],
        "stsb.test": [row(0, "x"), row(1, "7"), row(2, "2.2")],
    }
    write_glue_submission(predictions, path=tmp_path / "glue.zip")
    tables = {name: text.split("\n")[1:-1] for name, text in members(tmp_path / "glue.zip").items()}
    assert tables["SST-2.tsv"] == ["0\t0"]
    assert tables["RTE.tsv"] == ["0\tentailment"]
    assert tables["STS-B.tsv"] == ["0\t0.0", "1\t5.0", "2\t2.2"]


def test_a_row_predicted_twice_is_a_defect(tmp_path):
    with pytest.raises(AssertionError, match="row 0 is predicted twice"):
        rows = [row(0, "positive"), row(0, "positive")]
        write_glue_submission({"sst2.test": rows}, path=tmp_path / "glue.zip")
    assert list(tmp_path.iterdir()) == []


def test_from_files_of_a_run(tmp_path):
    paths = {key: write_predictions(ALL[key], path=tmp_path / f"{key}.jsonl") for key in ALL}
    read = {key: read_predictions(path) for key, path in paths.items()}
    assert write_glue_submission(read, path=tmp_path / "a.zip") == []
    write_glue_submission(ALL, path=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
