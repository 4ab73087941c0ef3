"""Proves that runs are read finished and unfinished, that their comparison is one page that needs
nothing from elsewhere, and that a published score is what its table adds up to."""

import json
import os
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import report
from constants import DATASET_VALS, PUBLISHED_MODELS, PUBLISHED_SCORES
from curves_t5 import chart, draw_curves, short, thinned, ticks, upper_limit
from errors import UserError
from metrics import AVERAGES
from run_records_t5 import different_settings, read_run, read_runs, series_of

ROOT = Path(__file__).resolve().parents[1]
LOG = [
    {"step": 5, "loss": 4.0, "learning_rate": 0.1, "epoch": 0.5, "grad_norm": 1.0},
    {"step": 10, "loss": 3.0, "learning_rate": 0.05, "epoch": 1.0, "grad_norm": 0.5},
    {"step": 10, "eval_loss": 3.5, "eval_accuracy": 50.0, "eval_runtime": 1.0, "epoch": 1.0},
]
# The best model once more, at the end.
AGAIN = {"step": 10, "eval_loss": 3.2, "eval_accuracy": 55.0, "eval_runtime": 1.0, "epoch": 1.0}


def make_run(folder: Path, *, accuracy: float = 50.0, log: list = LOG, **settings) -> Path:
    folder.mkdir(parents=True)
    (folder / "log_history.json").write_text(json.dumps(log))
    results = {"eval_accuracy": accuracy, "eval_loss": 3.5, "train_loss": 3.0, "epoch": 1.0}
    (folder / "all_results.json").write_text(json.dumps(results | {"eval_runtime": 1.0}))
    lines = [f"{name}: {value}" for name, value in {"output_dir": folder, **settings}.items()]
    (folder / "run.yaml").write_text("\n".join(lines))
    return folder


def make_unfinished(folder: Path) -> Path:
    for step in (9, 10):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        log = [entry for entry in LOG if entry["step"] <= step]
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        (checkpoint / "run.yaml").write_text("seed: 7\n")
    return folder


# ---- what is read -------------------------------------------------------------------------------


def test_a_finished_run_has_its_last_scores(tmp_path):
    run = read_run(make_run(tmp_path / "a", accuracy=61.0, seed=1))
    assert run.is_finished and run.last_step == 10 and run.settings["seed"] == 1
    assert run.scores == {"eval_accuracy": 61.0, "eval_loss": 3.5}


def test_an_unfinished_run_is_read_from_its_newest_checkpoint(tmp_path):
    run = read_run(make_unfinished(tmp_path / "a"))
    assert not run.is_finished and run.last_step == 10 and run.settings == {"seed": 7}
    assert run.scores == {"eval_accuracy": 50.0, "eval_loss": 3.5}


def test_what_is_no_run_gets_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no folder of a run.*Give an --output_dir"):
        read_run(tmp_path)
    (make_run(tmp_path / "a") / "log_history.json").write_text("[{")
    with pytest.raises(UserError, match=r"log_history.json cannot be read"):
        read_run(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, ROOT / "report.py", tmp_path / "nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.yaml", "seed: [", "run.yaml cannot be read"),
        ("run.yaml", "- seed", r"run.yaml cannot be read \(no names and values\)"),
        ("trainer_state.json", "[]", r"trainer_state.json cannot be read \(no log_history\)"),
        ("trainer_state.json", "{}", r"trainer_state.json cannot be read \(no log_history\)"),
    ],
)
def test_a_file_that_says_something_else_is_named(tmp_path, name, content, said):
    (make_unfinished(tmp_path / "a") / "checkpoint-10" / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read_run(tmp_path / "a")


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = read_runs([make_run(tmp_path / "x" / "out"), make_run(tmp_path / "y" / "out")])
    assert [run.name for run in runs] == ["x/out", "y/out"]
    folders = [make_run(tmp_path / name) for name in ("p/x/run", "q/x/run", "q/z/run", "c")]
    names = [run.name for run in read_runs([*folders, folders[0] / "../run"])]
    assert names == ["p/x/run", "q/x/run", "z/run", "c"]


def test_a_curve_is_not_bent_by_the_best_models_evaluation():
    assert series_of([*LOG, AGAIN], "eval_loss") == [(10, 3.5)]
    assert series_of(LOG, "loss") == [(5, 4.0), (10, 3.0)]


def test_only_what_differs_is_a_difference(tmp_path):
    runs = [
        read_run(make_run(tmp_path / name, seed=s, objective="ul2")) for name, s in ("a1", "b2")
    ]
    assert different_settings(runs) == {"seed": [1, 2]}


# ---- the table and the page ---------------------------------------------------------------------


def test_the_table_has_what_all_runs_have(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "bcd", accuracy=7.0)])
    assert report.comparison_table(runs) == (
        "                    a    bcd\n"
        "----------------------------\n"
        "eval_accuracy  50.000  7.000\n"
        "eval_loss       3.500  3.500"
    )


@pytest.mark.parametrize(
    ("name", "best"),
    [("eval_accuracy", 3.0), ("eval_mnli_loss", 1.0), ("eval_bits_per_byte", 1.0)],
)
def test_the_best_is_the_least_where_less_is_better(name, best):
    assert report.best_of(name, [1.0, None, 3.0]) == best
    assert report.best_of(name, [1.0, None]) is None
    assert report.best_of(name, [2.0, 2.0]) is None
    assert report.best_of(name, [float("nan"), 1.0, 3.0]) == best


def test_the_page_is_whole_and_asks_nothing_of_anyone(tmp_path, capsys):
    runs = [make_run(tmp_path / "<a>", seed=1), make_unfinished(tmp_path / "b")]
    report.main([*map(str, runs), "--output", str(tmp_path / "page.html")])
    assert "page.html" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|\b(?:src|href)=|@import|url\(", page)
    assert "<a>" not in page and "&lt;a&gt;" in page and "not finished" in page
    titles = re.findall(r"<figcaption>([^<]+)", page)
    expected = ["Training loss", "Held-out loss", "Held-out accuracy", "Learning rate"]
    assert titles == [*expected, "Norm of the gradient"]
    for drawing in re.findall(r"<svg.*?</svg>", page):
        assert ElementTree.fromstring(drawing).findall("polyline")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert [curve["name"] for curve in data["curves"]] == ["<a>", "b"]
    assert data["curves"][0]["points"] == [[5, 4.0], [10, 3.0]]
    assert "<tr><th>seed</th><td>1</td><td>7</td></tr>" in page


def test_a_run_without_a_log_has_a_page(tmp_path):
    folder = make_run(tmp_path / "a", log=[])
    (folder / "run.yaml").write_text("")
    page = report.page(read_runs([folder]))
    assert "0 steps, finished" in page and "Curves" not in page


def test_a_curve_stands_where_its_values_are():
    drawing = chart("Score", {"a": [(0, 0.0), (50, 5.0), (100, 10.0)]}, colours={"a": "#000"})
    points = re.search(r'<polyline class="curve" points="([^"]+)"', drawing)[1].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 == pytest.approx((x0 + x2) / 2) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2 and y0 > y2  # up is more
    assert chart("Score", {"a": []}, colours={"a": "#000"}) == ""


def test_values_that_are_no_numbers_leave_the_page_readable():
    points = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]
    drawing = chart("Loss", {"NaN </script>": points}, colours={"NaN </script>": "#000"})
    assert drawing.count("</script>") == 1 and "nan" not in drawing
    (curve,) = json.loads(re.search(r"json\">(.*?)</script>", drawing)[1])["curves"]
    assert curve["name"] == "NaN </script>"
    assert curve["points"] == [[0, 1.0], [1, None], [2, None], [3, 2.0]]


def test_numbers_of_an_axis_are_round():
    assert ticks(0.3, 4.1) == [0, 1, 2, 3, 4]
    assert ticks(0, 0.00031)[1] == pytest.approx(0.0001)
    assert ticks(5, 5)[0] <= 5
    assert [short(v) for v in (12000, 0.00025, 3.5, 0)] == ["12k", "2.5e-4", "3.5", "0"]


def test_one_high_beginning_does_not_flatten_a_loss():
    losses = [100.0, *(5 - i / 20 for i in range(30))]
    assert 4.8 < upper_limit(losses) < 7
    assert upper_limit([3.0, 2.0, 1.0]) == 3.0
    assert upper_limit([float("nan")]) is None


def test_long_curves_keep_their_end():
    points = [(step, step) for step in range(1234)]
    few = thinned(points)
    assert len(few) <= 501 and few[0] == points[0] and few[-1] == points[-1]


def test_a_picture_needs_something_to_draw(tmp_path):
    assert not draw_curves([{"step": 1, "epoch": 1.0}], path=tmp_path / "a.png")
    assert draw_curves([*LOG, AGAIN], path=tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "a.png").exists()


def test_a_picture_leaves_pyplot_alone(tmp_path):
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import curves_t5;"
        "curves_t5.draw_curves([{'step': 1, 'loss': 2.0}], path=pathlib.Path(sys.argv[2]));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    words = [sys.executable, "-c", program, str(ROOT), str(tmp_path / "a.png")]
    assert subprocess.run(words, env={**os.environ, "MPLBACKEND": "svg"}).returncode == 0


# ---- published scores ---------------------------------------------------------------------------

# The benchmarks' averages as the same tables print them; T5-11B's on SuperGLUE is that of the
# leaderboard, as its row is (Table 14 prints 88.9). WNLI has no baseline.
AVERAGES_PUBLISHED = {
    "glue": (83.28, 77.4, 82.7, 86.4, 88.5, 90.3),
    "super_glue": (71.36, 63.3, 76.2, 82.3, 86.4, 89.3),
}


@pytest.mark.parametrize("benchmark", AVERAGES_PUBLISHED)
@pytest.mark.parametrize("model", range(len(PUBLISHED_MODELS)), ids=PUBLISHED_MODELS)
def test_published_scores_add_up_to_the_published_average(benchmark, model):
    scores = PUBLISHED_SCORES[benchmark]
    of_tasks = [
        statistics.fmean(scores[name][metric][model] for name, metric in parts)
        for parts in AVERAGES[benchmark].values()
        if all(scores[name][metric][model] is not None for name, metric in parts)
    ]
    average, decimals = AVERAGES_PUBLISHED[benchmark][model], 1 if model else 2
    assert statistics.fmean(of_tasks) == pytest.approx(average, abs=0.051 * 10 ** (1 - decimals))


def test_published_scores_are_of_tasks_and_metrics_that_exist():
    for benchmark, tasks in PUBLISHED_SCORES.items():
        for name, metrics in tasks.items():
            task = DATASET_VALS[benchmark][re.sub("_(mis)?matched$", "", name)]
            assert set(metrics) <= set(task["metric_names"]), name
            assert all(len(values) == len(PUBLISHED_MODELS) for values in metrics.values())
