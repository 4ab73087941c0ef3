"""Proves that every shipped sweep optimises what its task declares with flags that exist, that
run_local.py runs such files without W&B: every method, poor trials stopped, interrupted trials
taken up, two workers. tests/cluster runs real trainings, with the real `wandb` programs."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

from arguments_t5 import FINE_TUNING, PRE_TRAINING
from constants import DATASET_VALS
from errors import UserError
from flags import parse_flags
from metrics import find_metric
from tasks import find_task

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*_sweep.yaml"))


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "sweeps" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


run_local = load("run_local")
write_sweeps = load("write_sweeps")


# ---- the shipped files --------------------------------------------------------------------------


def test_every_task_has_its_sweeps_as_the_table_makes_them():
    written = write_sweeps.all_sweeps()
    for task in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"):
        assert (
            f"glue_{task}_sweep.yaml" in written and f"glue_{task}_deepspeed_sweep.yaml" in written
        )
    assert "glue_ax_sweep.yaml" not in written
    for file, text in written.items():
        assert (ROOT / "sweeps" / file).read_text() == text, "run python sweeps/write_sweeps.py"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_a_sweep_optimises_what_its_task_declares(path):
    sweep = yaml.safe_load(path.read_text())
    words = [
        f"--{name}={(value.get('values') or [value.get('value', value.get('min'))])[0]}"
        for name, value in sweep["parameters"].items()
        if name != "deepspeed"  # DeepSpeed itself needs a launch
    ]
    if sweep["program"] == "pre_train_t5.py":
        assert sweep["metric"] == {"name": "eval/loss", "goal": "minimize"}
        parse_flags(PRE_TRAINING, words)
    else:
        fixed = {k: v["value"] for k, v in sweep["parameters"].items() if "value" in v}
        metric = find_task(fixed["benchmark"], fixed["dataset_name"]).metric_to_optimize
        goal = "maximize" if find_metric(metric).greater_is_better else "minimize"
        assert sweep["metric"] == {"name": f"eval/{metric}", "goal": goal}
        parse_flags(FINE_TUNING, words)
    assert sweep["command"][-2:] == ["${program}", "${args}"]
    assert not any(" " in word for word in sweep["command"])
    with_deepspeed = "deepspeed" in path.name
    assert ("deepspeed" in sweep["parameters"]) == with_deepspeed
    assert sweep["command"][0] == ("bash" if with_deepspeed else "accelerate")
    assert run_local.read_sweep(path).space.keys() >= {"learning_rate", "lr_scheduler_type"}


def test_every_task_of_the_benchmarks_can_be_swept_or_has_no_training_rows():
    for benchmark in ("glue", "super_glue"):
        for task, entry in DATASET_VALS.get(benchmark, {}).items():
            has_file = (ROOT / "sweeps" / f"{benchmark}_{task}_sweep.yaml").exists()
            splits = entry.get("splits", {"train": "", "validation": ""})
            assert has_file == ("train" in splits and "validation" in splits), task


# ---- without W&B, on a program that takes no time -----------------------------------------------

# The score of a trial is rate - 10 (rate - 0.5)^2; its evaluations come in three lines.
PROGRAM = """
import json, pathlib, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(given["output_dir"])
with (folder / "starts").open("a") as file:
    file.write("x")
rate = float(given["rate"])
score = rate - 10 * (rate - 0.5) ** 2
if given.get("fails"):
    sys.exit(f"prog.py: {given['fails']}")
for step in (1, 2, 3):
    time.sleep(float(given.get("seconds", 0)))
    print(f"held out   step {step}/3     loss  accuracy")
    print(f"           now             1.000{score:10.3f}", flush=True)
(folder / "all_results.json").write_text(json.dumps({"eval_accuracy": score}))
"""


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Writes a sweep of the program above; starts in its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prog.py").write_text(PROGRAM)

    def write(method: str = "random", *, rate: dict | None = None, **others) -> Path:
        settings = {
            "program": "prog.py",
            "method": method,
            "metric": {"name": "eval/accuracy", "goal": "maximize"},
            "parameters": {"rate": rate or {"min": 0.0, "max": 1.0}, "seconds": {"value": 0}},
            "command": ["${interpreter}", "${program}", "${args}"],
        }
        path = tmp_path / "fake_sweep.yaml"
        path.write_text(yaml.safe_dump(settings | others))
        return path

    return write


def run_words(*words: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "sweeps" / "run_local.py"), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(*words: object) -> tuple[int, str]:
    process = run_words(*words)
    text, _ = process.communicate(timeout=120)
    return process.returncode, text


def table(folder: Path = Path("outputs/sweeps/fake")) -> list[dict[str, str]]:
    lines = [line.split(",") for line in (folder / "trials.csv").read_text().splitlines()]
    return [dict(zip(lines[0], row, strict=True)) for row in lines[1:]]


def test_a_grid_is_run_once_each_and_the_same_command_adds_nothing(sweep_file):
    path = sweep_file("grid", rate={"values": [0.1, 0.5, 0.9]})
    code, text = finished(path, "--jobs", 2)
    assert code == 0, text
    rows = table()
    assert [row["rate"] for row in rows][0] == "0.5"  # the best first
    assert sorted(row["rate"] for row in rows) == ["0.1", "0.5", "0.9"]
    best = Path("outputs/sweeps/fake") / f"trial-{int(rows[0]['trial']):03d}"
    assert f"Best: {best}" in text and Path("outputs/sweeps/fake/trials.png").stat().st_size > 1000
    assert finished(path)[0] == 0 and table() == rows


def test_bayes_goes_where_the_score_is_better_than_at_random(sweep_file):
    assert finished(sweep_file("bayes"), "--count", 24)[0] == 0
    rates = {int(row["trial"]): float(row["rate"]) for row in table()}
    assert len(rates) == 24
    off = [abs(rates[trial] - 0.55) for trial in range(24)]  # the score peaks at 0.55
    assert sum(off[12:]) < 0.7 * sum(off[:12])


def test_the_same_seed_chooses_the_same_trials(sweep_file):
    path = sweep_file("random")
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert finished(path, "--count", 2, "--folder", folder, "--seed", seed)[0] == 0
    rates = [sorted(row["rate"] for row in table(Path(folder))) for folder in "abc"]
    assert rates[0] == rates[1] != rates[2]


@pytest.mark.parametrize("kind", ["median", "hyperband"])
def test_poor_trials_are_stopped(sweep_file, kind):
    early = {"type": kind, "min_iter": 1, "max_iter": 2, "eta": 2}
    path = sweep_file("random", rate={"min": 0.0, "max": 0.01}, early_terminate=early)
    settings = yaml.safe_load(path.read_text())
    settings["parameters"]["seconds"] = {"value": 0.5}
    path.write_text(yaml.safe_dump(settings))
    sweep = run_local.read_sweep(path)
    study = run_local.open_study(sweep, folder=Path("outputs/sweeps/fake"))
    for _ in range(5):  # better ones, from an earlier worker
        study.add_trial(
            optuna.create_trial(
                params={"rate": 0.005},
                distributions=sweep.space,
                value=0.5,
                intermediate_values={1: 0.5, 2: 0.5, 3: 0.5},
                system_attrs={"completed_rung_0": 0.5},  # what hyperband noted of them
            )
        )
    code, text = finished(path, "--count", 6)
    assert code == 0, text
    assert "poor, stopped" in text and [row["state"] for row in table()][-1] == "poor"
    assert not Path("outputs/sweeps/fake/trial-005/all_results.json").exists()


def test_two_workers_share_a_journal_and_the_count(sweep_file):
    path = sweep_file("random")
    workers = [run_words(path, "--count", 6) for _ in range(2)]
    for worker in workers:
        assert worker.communicate(timeout=120)[0] and worker.returncode == 0
    finished(path, "--count", 6)
    assert [row["state"] for row in table()] == ["finished"] * 6
    assert len({row["rate"] for row in table()}) == 6


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_trial_is_taken_up_in_its_folder(sweep_file, signum):
    path = sweep_file("grid", rate={"values": [0.3]})
    settings = yaml.safe_load(path.read_text())
    settings["parameters"]["seconds"] = {"value": 1}
    path.write_text(yaml.safe_dump(settings))
    worker = run_words(path)
    starts = Path("outputs/sweeps/fake/trial-000/starts")
    for _ in range(300):
        if starts.exists():
            break
        time.sleep(0.1)
    worker.send_signal(signum)
    worker.communicate(timeout=60)
    assert worker.returncode == (75 if signum == signal.SIGTERM else -signal.SIGKILL)
    code, text = finished(path)
    assert code == 0, text
    assert starts.read_text() == "xx"
    (row,) = table()
    assert row["state"] == "finished" and row["rate"] == "0.3"


def test_a_program_that_says_2_ends_the_sweep_with_its_sentence(sweep_file):
    path = sweep_file("random")
    (path.parent / "prog.py").write_text("import sys\nprint('prog.py: no such file')\nsys.exit(2)")
    code, text = finished(path)
    assert code == 2 and "Traceback" not in text
    assert "Trial 0 failed with exit code 2: prog.py: no such file" in text
    assert len(table()) == 1


def test_a_worker_that_only_fails_gives_up(sweep_file):
    path = sweep_file("random")
    (path.parent / "prog.py").write_text("raise SystemExit('prog.py: broken')")
    code, text = finished(path, "--count", 9)
    assert code == 2 and "prog.py: broken" in text and len(table()) == 3


def test_another_sweep_in_the_same_folder_is_refused(sweep_file):
    assert finished(sweep_file("random"), "--count", 1)[0] == 0
    code, text = finished(sweep_file("random", rate={"min": 0.0, "max": 2.0}), "--count", 1)
    assert code == 2 and "another sweep" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "bayess"}, "Did you mean bayes"),
        ({"parameters": {"lerning_rate": {"values": [1]}}}, "Did you mean learning_rate"),
        ({"parameters": {"learning_rate": {"distribution": "beta", "min": 0, "max": 1}}}, "beta"),
        ({"parameters": {"learning_rate": {"min": 2, "max": 1}}}, "learning_rate"),
        ({"parameters": {"learning_rate": {"min": 2}}}, "`min` and `max`"),
        ({"parameters": {"learning_rate": {"parameters": {}}}}, "nested"),
        ({"parameters": {"learning_rate": {"value": 1}}}, "varies nothing"),
        ({"metric": None, "method": None}, "lacks"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_sweep_gets_one_sentence(sweep_file, change, sentence):
    path = sweep_file("random", program="fine_tune_t5.py")
    settings = yaml.safe_load(path.read_text()) | change
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    with pytest.raises(UserError, match=sentence):
        run_local.read_sweep(path)


def test_a_grid_without_a_list_is_refused(sweep_file):
    with pytest.raises(UserError, match="has no list of values"):
        run_local.main([str(sweep_file("grid"))])
