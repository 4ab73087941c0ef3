"""Proves that predictions come back as they were written and never half; that the zips of GLUE and
SuperGLUE hold the names, headers, words, numbers and row order that the sites take, byte by byte
for three rows, the same bytes each time, with every official row of the tasks that are missing;
and that the checker finds nothing wrong in such a zip and names each mistake in another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import predictions
from constants import DATASET_VALS
from errors import UserError
from predictions import (
    SITE_FILES,
    SUBMISSIONS,
    SiteFile,
    check_submission,
    predictions_path,
    read_predictions,
    replacing,
    write_predictions,
)
from tasks import find_task

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def warned(match: str | None = r"\.zip: "):
    """Holds that what is done within warns in these words; None: not at all."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    predictions.logger.addHandler(handler)
    try:
        yield
    finally:
        predictions.logger.removeHandler(handler)
    assert bool(said) == (match is not None), said
    assert all(re.search(match or "", message) for message in said), said


def row(idx: int, prediction: str) -> dict:
    return {"idx": idx, "input": "i", "target": "<unk>", "prediction": prediction, "label": -1}


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/../../../x", "c:\\x", "user/data"])
def test_names_stay_in_the_folder(tmp_path, name):
    assert predictions_path(tmp_path, task="cat", split="test").name == "cat.test.jsonl"
    for names in ({"task": name, "split": "test"}, {"task": "cat", "split": name}):
        path = predictions_path(tmp_path, **names)
        assert path.resolve().parent == tmp_path.resolve() / "predictions"


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

ENTAILED = ["entailment", "not_entailment", "entailment"]
# benchmark: {key of predictions: (name at the site, texts, bytes of the file)}
GOLDEN = {
    "glue": {
        "cola.test": ("CoLA", ["acceptable", "unacceptable", "acceptable"], "101"),
        "sst2.test": ("SST-2", ["positive", "negative", "positive"], "101"),
        "mrpc.test": ("MRPC", ["equivalent", "not_equivalent", "equivalent"], "101"),
        "stsb.test": ("STS-B", ["3.4", "0.0", "5.0"], ["3.4", "0.0", "5.0"]),
        "qqp.test": ("QQP", ["duplicate", "not_duplicate", "duplicate"], "101"),
        "mnli.test_matched": ("MNLI-m", *[["neutral", "entailment", "contradiction"]] * 2),
        "mnli.test_mismatched": ("MNLI-mm", *[["contradiction", "neutral", "neutral"]] * 2),
        "qnli.test": ("QNLI", ENTAILED, ENTAILED),
        "rte.test": ("RTE", ENTAILED, ENTAILED),
        "wnli.test": ("WNLI", ENTAILED, "101"),
        "ax.test": ("AX", *[["contradiction", "entailment", "neutral"]] * 2),
    },
    "super_glue": {
        "boolq.test": ("BoolQ", ["True", "False", "x"], ['"true"', '"false"', '"false"']),
        "cb.test": (
            "CB",
            ["contradiction", "neutral", "entailment"],
            ['"contradiction"', '"neutral"', '"entailment"'],
        ),
        "copa.test": ("COPA", ["choice2", "choice1", "choice2"], "101"),
        "record.test": ("ReCoRD", ["Ada ", "São", '"'], ['"Ada"', '"S\\u00e3o"', '"\\""']),
        "rte.test": ("RTE", ENTAILED, [f'"{word}"' for word in ENTAILED]),
        "wic.test": ("WiC", ["True", "False", "True"], ['"true"', '"false"', '"true"']),
        "wsc.test": ("WSC", ["Tom", "x", ""], ['"True"', '"False"', '"False"']),
        "axb.test": ("AX-b", ENTAILED, [f'"{word}"' for word in ENTAILED]),
        "axg.test": ("AX-g", ENTAILED, [f'"{word}"' for word in ENTAILED]),
    },
}
MULTIRC = [  # two questions of one paragraph, one of the next
    ({"paragraph": 0, "question": 0, "answer": 0}, "True"),
    ({"paragraph": 0, "question": 0, "answer": 1}, "False"),
    ({"paragraph": 0, "question": 1, "answer": 2}, "x"),
    ({"paragraph": 1, "question": 2, "answer": 3}, "True"),
]
MULTIRC_TEXT = (
    '{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 1}, '
    '{"idx": 1, "label": 0}]}, {"idx": 1, "answers": [{"idx": 2, "label": 0}]}]}}\n'
    '{"idx": 1, "passage": {"questions": [{"idx": 2, "answers": [{"idx": 3, "label": 1}]}]}}\n'
)


def all_predictions(benchmark: str) -> dict[str, list[dict]]:
    rows_of = {
        key: [row(i, text) for i, text in enumerate(texts)]
        for key, (_, texts, _) in GOLDEN[benchmark].items()
    }
    if benchmark == "super_glue":
        rows_of["multirc.test"] = [{**row(0, text), "idx": idx} for idx, text in MULTIRC]
        for number, query in enumerate(rows_of["record.test"]):
            query["idx"] = {"passage": 7, "query": number}
        wsc = {"text": "a it b", "span1_text": "Tom", "span2_text": "it", "span2_index": 1}
        for line in rows_of["wsc.test"]:
            line["answer"] = find_task("super_glue", "wsc").answer(line["prediction"], wsc)
    return rows_of


def golden_members(benchmark: str) -> dict[str, str]:
    if benchmark == "glue":
        return {
            f"{name}.tsv": f"index\tprediction\n0\t{a}\n1\t{b}\n2\t{c}\n"
            for name, _, (a, b, c) in GOLDEN["glue"].values()
        }
    return {
        f"{name}.jsonl": "".join(
            f'{{"idx": {number}, "label": {value}}}\n' for number, value in enumerate(values)
        )
        for name, _, values in GOLDEN["super_glue"].values()
    } | {"MultiRC.jsonl": MULTIRC_TEXT}


def members(path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


@pytest.fixture
def small_sites(monkeypatch):
    """Sites whose test sets have three rows, MultiRC's four: the golden files are complete."""
    small = {
        benchmark: {
            name: SiteFile(file.keys, 4 if name == "MultiRC" else 3, file.form)
            for name, file in files.items()
        }
        for benchmark, files in SITE_FILES.items()
    }
    monkeypatch.setattr(predictions, "SITE_FILES", small)


BENCHMARKS = pytest.mark.parametrize("benchmark", list(SITE_FILES))


@BENCHMARKS
def test_three_rows_of_every_task_byte_by_byte(tmp_path, small_sites, benchmark):
    path = tmp_path / "submission" / f"{benchmark}.zip"
    with warned(None):
        assert SUBMISSIONS[benchmark](all_predictions(benchmark), path=path) == []
    assert members(path) == golden_members(benchmark)
    assert list(members(path)) == [
        f"{name}{predictions.SUFFIXES[benchmark]}" for name in SITE_FILES[benchmark]
    ]


@BENCHMARKS
def test_every_test_split_has_a_file(benchmark):
    splits = {
        f"{name}.{split}"
        for name in DATASET_VALS[benchmark]
        for split in find_task(benchmark, name).splits.get("test", ())
    }
    assert splits == {key for file in SITE_FILES[benchmark].values() for key in file.keys}


@BENCHMARKS
def test_the_same_bytes_each_time(tmp_path, monkeypatch, small_sites, benchmark):
    rows_of = all_predictions(benchmark)
    SUBMISSIONS[benchmark](rows_of, path=tmp_path / "a.zip")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    shuffled = {key: rows_of[key][::-1] for key in reversed(rows_of)}
    SUBMISSIONS[benchmark](shuffled, path=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_rows_are_in_the_order_of_their_official_numbers(tmp_path):
    rows = [row(10, "positive"), row(2, "negative"), row(0, "positive")]
    with warned():
        SUBMISSIONS["glue"]({"sst2.test": rows}, path=tmp_path / "glue.zip")
    assert members(tmp_path / "glue.zip")["SST-2.tsv"] == "index\tprediction\n0\t1\n2\t0\n10\t1\n"


def test_missing_tasks_are_filled_and_named(tmp_path):
    some = {key: all_predictions("glue")[key] for key in ("sst2.test", "mnli.test_matched")}
    with warned("CoLA, MRPC, .*, AX hold one answer for every row"):
        missing = SUBMISSIONS["glue"]({**some, "sst2.validation": []}, path=tmp_path / "glue.zip")
    assert missing == "CoLA MRPC STS-B QQP MNLI-mm QNLI RTE WNLI AX".split()
    files = members(tmp_path / "glue.zip")
    assert len(files) == 11
    assert files["SST-2.tsv"] == golden_members("glue")["SST-2.tsv"]
    assert files["RTE.tsv"].split("\n")[-3:] == ["2998\tentailment", "2999\tentailment", ""]
    assert files["STS-B.tsv"].startswith("index\tprediction\n0\t0.0\n1\t0.0\n")
    assert files["WNLI.tsv"].count("\t0\n") == 146


def test_what_cannot_be_filled_is_said(tmp_path):
    rows_of = {"cb.test": all_predictions("super_glue")["cb.test"]}
    with warned("MultiRC is missing, because only its test rows say"):
        missing = SUBMISSIONS["super_glue"](rows_of, path=tmp_path / "a.zip")
    assert missing == "BoolQ COPA MultiRC ReCoRD RTE WiC WSC AX-b AX-g".split()
    files = members(tmp_path / "a.zip")
    assert sorted(files) == sorted(set(golden_members("super_glue")) - {"MultiRC.jsonl"})
    assert files["ReCoRD.jsonl"].endswith('{"idx": 9999, "label": ""}\n')
    assert files["WSC.jsonl"].startswith('{"idx": 0, "label": "False"}\n')
    assert files["BoolQ.jsonl"].startswith('{"idx": 0, "label": "false"}\n')


@BENCHMARKS
def test_no_task_no_file(tmp_path, benchmark):
    assert SUBMISSIONS[benchmark]({}, path=tmp_path / "a.zip") == list(SITE_FILES[benchmark])
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_test_set_is_named(tmp_path):
    rows_of = all_predictions("glue")
    with warned(r"CoLA has 3 rows of 1,063, .*AX has 3 rows of 1,104\.$"):
        assert SUBMISSIONS["glue"](rows_of, path=tmp_path / "a.zip") == []


def test_wnli_as_wsc_stands_in_for_wnli(tmp_path):
    rows = [{**row(i, "The worm"), "answer": answer} for i, answer in enumerate((1, 0, -1))]
    with warned():
        SUBMISSIONS["glue"]({"wnli_simple.test": rows}, path=tmp_path / "a.zip")
    assert members(tmp_path / "a.zip")["WNLI.tsv"] == "index\tprediction\n0\t1\n1\t0\n2\t0\n"


def test_the_site_gets_a_label_for_an_invalid_answer_and_numbers_in_its_range(tmp_path):
    rows_of = {
        "sst2.test": [row(0, "good")],
        "rte.test": [row(0, "<unk>")],
        "stsb.test": [row(0, "x"), row(1, "7"), row(2, "2.2")],
    }
    with warned():
        SUBMISSIONS["glue"](rows_of, path=tmp_path / "glue.zip")
    tables = {name: text.split("\n")[1:-1] for name, text in members(tmp_path / "glue.zip").items()}
    assert tables["SST-2.tsv"] == ["0\t0"]
    assert tables["RTE.tsv"] == ["0\tentailment"]
    assert tables["STS-B.tsv"] == ["0\t0.0", "1\t5.0", "2\t2.2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(0, "positive"), row(0, "positive")],
            r"SST-2 \(sst2.test\): .*idx 0 is predicted twice",
        ),
        ([row("seven", "positive")], "idx 'seven' is no official row number"),
        ([{**row(0, "positive"), "idx": {"passage": 1}}], "no official row number"),
    ],
)
def test_row_numbers_that_the_site_does_not_take(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        SUBMISSIONS["glue"]({"sst2.test": rows}, path=tmp_path / "glue.zip")
    assert list(tmp_path.iterdir()) == []


def test_from_files_of_a_run(tmp_path, small_sites):
    rows_of = all_predictions("glue")
    paths = {
        key: write_predictions(rows_of[key], path=tmp_path / f"{key}.jsonl") for key in rows_of
    }
    read = {key: read_predictions(path) for key, path in paths.items()}
    assert SUBMISSIONS["glue"](read, path=tmp_path / "a.zip") == []
    SUBMISSIONS["glue"](rows_of, path=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


# ---- checking a zip -----------------------------------------------------------------------------


def write_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@BENCHMARKS
def test_a_zip_of_ours_has_nothing_wrong(tmp_path, small_sites, benchmark):
    path = tmp_path / "a.zip"
    SUBMISSIONS[benchmark](all_predictions(benchmark), path=path)
    assert check_submission(path) == (benchmark, [])


def test_a_filled_zip_has_the_official_rows(tmp_path):
    rows = [row(i, "positive") for i in range(1821)]
    with warned():
        SUBMISSIONS["glue"]({"sst2.test": rows}, path=tmp_path / "glue.zip")
    assert check_submission(tmp_path / "glue.zip") == ("glue", [])


@pytest.mark.parametrize(
    ("benchmark", "changes", "problems"),
    [
        ("glue", {"RTE.tsv": None}, ["RTE.tsv is missing"]),
        ("glue", {"notes.txt": "x"}, ["notes.txt is no file of the site"]),
        (
            "glue",
            {"RTE.tsv": None, "glue/RTE.tsv": "x"},
            ["RTE.tsv lies in a folder, as glue/RTE.tsv; the site wants it at the top"],
        ),
        (
            "glue",
            {"RTE.tsv": "id\tlabel\n0\tentailment\n1\tentailment\n2\tentailment\n"},
            [r"RTE.tsv: the header is 'id\tlabel', but must be 'index\tprediction'"],
        ),
        (
            "glue",
            {"RTE.tsv": "index\tprediction\n0\tentailment\n2\tentailment\n"},
            ["RTE.tsv: 2 rows, but the test set has 3", "RTE.tsv: idx 1: missing"],
        ),
        (
            "glue",
            {"RTE.tsv": "index\tprediction\n0\tentailment\n0\tentailment\n7\tentailment\n"},
            [
                "RTE.tsv: idx 0: more than once",
                "RTE.tsv: idx 1, 2: missing",
                "RTE.tsv: idx 7: unknown",
            ],
        ),
        (
            "glue",
            {"SST-2.tsv": "index\tprediction\n0\tpositive\n1\t1\n2\t\n"},
            [
                "SST-2.tsv: line 2: 'positive' is none of '0', '1'",
                "SST-2.tsv: line 4: '' is none of '0', '1'",
            ],
        ),
        (
            "glue",
            {"STS-B.tsv": "index\tprediction\n0\t5.5\n1\tx\n2\t3\n"},
            [
                "STS-B.tsv: line 2: 5.5 is not between 0 and 5",
                "STS-B.tsv: line 3 is not a row number, a tab and a prediction (could not convert "
                "string to float: 'x')",
            ],
        ),
        ("glue", {"RTE.tsv": b"\xff\xfe"}, ["RTE.tsv is not UTF-8"]),
        ("glue", {"RTE.tsv": ""}, ["RTE.tsv: the header is ''", "0 rows, but the test set has 3"]),
        (
            "super_glue",
            {"WSC.jsonl": "".join(f'{{"idx": {i}, "label": "true"}}\n' for i in range(3))},
            ["WSC.jsonl: line 1: 'true' is none of 'False', 'True'"],
        ),
        (
            "super_glue",
            {"COPA.jsonl": "".join(f'{{"idx": {i}, "label": "1"}}\n' for i in range(3))},
            ["COPA.jsonl: line 1: '1' is none of 0, 1"],
        ),
        (
            "super_glue",
            {"COPA.jsonl": '{"idx": 0, "label": true}\n{"idx": "1", "label": 1}\nx\n'},
            [
                "COPA.jsonl: line 1: True is none of 0, 1",
                "COPA.jsonl: line 2 is not an object like",
                "COPA.jsonl: line 3 is not an object like",
            ],
        ),
        ("super_glue", {"ReCoRD.jsonl": '{"idx": 0, "label": 1}\n'}, ["line 1: 1 is no text"]),
        (
            "super_glue",
            {"MultiRC.jsonl": MULTIRC_TEXT.replace('"label": 1', '"label": "1"')},
            ["MultiRC.jsonl: line 1: '1' is none of 0, 1"],
        ),
        (
            "super_glue",
            {"MultiRC.jsonl": MULTIRC_TEXT + MULTIRC_TEXT},
            [
                "MultiRC.jsonl: 8 rows, but",
                "(0, 0, 0), (0, 0, 1), (0, 1, 2) and 1 more: more than once",
            ],
        ),
        (
            "super_glue",
            {"MultiRC.jsonl": '{"idx": 0, "label": 1}\n'},
            ["MultiRC.jsonl: line 1 is not an object like"],
        ),
    ],
)
def test_each_mistake_in_a_zip_is_named(tmp_path, small_sites, benchmark, changes, problems):
    files = {**golden_members(benchmark), **changes}
    path = write_zip(tmp_path / "a.zip", {n: text for n, text in files.items() if text is not None})
    found_benchmark, found = check_submission(path)
    assert found_benchmark == benchmark
    for problem in problems:
        assert any(problem in text for text in found), found
    (name,) = {name.split("/")[-1] for name in changes}
    assert all(name in text for text in found)


def test_what_is_no_submission(tmp_path):
    (tmp_path / "a.zip").write_text("x")
    assert check_submission(tmp_path / "a.zip")[0] is None
    assert check_submission(tmp_path / "none.zip")[0] is None
    benchmark, problems = check_submission(write_zip(tmp_path / "b.zip", {"a.txt": "x"}))
    assert benchmark is None and "it holds no file of a site" in problems[0]


def test_many_wrong_lines_are_counted(tmp_path):
    lines = "".join(f"{i}\tyes\n" for i in range(3000))
    files = {"RTE.tsv": f"index\tprediction\n{lines}"}
    _, problems = check_submission(write_zip(tmp_path / "a.zip", files))
    assert "RTE.tsv: and 2,997 more lines like these" in problems


def test_the_program(tmp_path):
    rows = [row(i, "positive") for i in range(1821)]
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    with warned():
        SUBMISSIONS["glue"]({"sst2.test": rows}, path=good)
        SUBMISSIONS["glue"]({"sst2.test": rows[:-1]}, path=bad)
    for path, code, stream, message in (
        (good, 0, "stdout", f"{good}: glue, 11 files, nothing wrong"),
        (bad, 2, "stderr", "SST-2.tsv: 1,820 rows, but the test set has 1,821"),
    ):
        run = subprocess.run(
            [sys.executable, "predictions.py", "--check", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert run.returncode == code
        assert message in getattr(run, stream) and "Traceback" not in run.stderr
