"""Proves that the real `wandb sweep` and `wandb agent` run real trainings of two ranks to the right
metric, alone and as two agents under srun, and that run_local.py does so without W&B."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from slurm_on_one_host import ROOT, Slurm, slurm  # noqa: F401 (fixture)
from test_scripts import fine_tuning_words, pre_trained, task_dir, text_file  # noqa: F401 (fixtures)
from wandb_stand_in import StandIn

pytestmark = pytest.mark.cluster

SWEEP_ID = "some-entity/some-project/sweep0"
TWO_RANKS = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TWO_RANKS += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def write_sweep(
    folder: Path,
    *,
    model: Path,
    task_dir: Path,  # noqa: F811
    launcher: list[str],
    learning_rates: list[float],
    base: str = "glue_cola_sweep.yaml",
) -> Path:
    """Short fine-tunings, with the last words of a shipped file's command and its engine."""
    sweep = yaml.safe_load((ROOT / "sweeps" / base).read_text())
    engine = {k: sweep["parameters"][k] for k in ("deepspeed", "optim") if k in sweep["parameters"]}
    words = fine_tuning_words(folder / "trials", task_dir=task_dir, model=model)[3:]
    fixed = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
    fixed |= {"use_cpu": True, "bf16": False, "num_train_epochs": 1, "report_to": "wandb"}
    sweep |= {
        "method": "grid",
        "program": str(ROOT / "fine_tune_t5.py"),
        "metric": {"name": "eval/accuracy", "goal": "maximize"},
        "parameters": {
            **{name: {"value": value} for name, value in fixed.items()},
            **engine,
            "learning_rate": {"values": learning_rates},
        },
        "command": [*launcher, *sweep["command"][-2:]],
    }
    path = folder / "real_sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def check_runs(service: StandIn, folder: Path, *, number: int) -> None:
    assert len(service.runs) == number
    for run_id, run in service.runs.items():
        trial = folder / "trials" / run_id
        results = json.loads((trial / "all_results.json").read_text())
        assert run["summary"]["eval/accuracy"] == pytest.approx(results["eval_accuracy"])
        assert run["ended"] == [0]  # one process reported, of two
        given = yaml.safe_load((trial / "run.yaml").read_text())
        assert given["learning_rate"] == run["args"]["learning_rate"]["value"]


@pytest.fixture
def words(pre_trained, task_dir):  # noqa: F811
    return {"model": pre_trained[0], "task_dir": task_dir}


def test_a_sweep_and_its_agent(tmp_path, words, slurm):  # noqa: F811
    path = write_sweep(tmp_path, **words, launcher=TWO_RANKS, learning_rates=[0.01])
    with StandIn() as service:
        text = slurm("wandb", "sweep", path, **service.environment)
        assert f"wandb agent {SWEEP_ID}" in text
        environment = {**service.environment, "WANDB_DIR": str(tmp_path)}
        text = slurm("wandb", "agent", SWEEP_ID, seconds=150, **environment)
        assert "accelerate: 2 processes" in text
        check_runs(service, tmp_path, number=1)


def test_an_agent_runs_deepspeed(tmp_path, words, slurm):  # noqa: F811
    base = "glue_cola_deepspeed_sweep.yaml"
    launcher = yaml.safe_load((ROOT / "sweeps" / base).read_text())["command"][:-2]
    launcher += ["--num_gpus", "2"]
    path = write_sweep(tmp_path, **words, launcher=launcher, learning_rates=[0.001], base=base)
    with StandIn() as service:
        environment = {**service.environment, "WANDB_DIR": str(tmp_path), "DS_ACCELERATOR": "cpu"}
        slurm("wandb", "sweep", path, **environment)
        text = slurm("wandb", "agent", SWEEP_ID, seconds=280, **environment)
        assert "deepspeed: 2 processes on 1 node" in text and "; DeepSpeed ZeRO-2\n" in text
        check_runs(service, tmp_path, number=1)


def test_a_parameter_that_is_no_flag_ends_its_trial_with_a_sentence(tmp_path, words, slurm):  # noqa: F811
    path = write_sweep(tmp_path, **words, launcher=TWO_RANKS, learning_rates=[0.01])
    sweep = yaml.safe_load(path.read_text())
    sweep["parameters"]["lerning_rate"] = sweep["parameters"].pop("learning_rate")
    path.write_text(yaml.safe_dump(sweep))
    with StandIn() as service:
        environment = {**service.environment, "WANDB_DIR": str(tmp_path)}
        slurm("wandb", "sweep", path, **environment)
        done = slurm.run("wandb", "agent", SWEEP_ID, seconds=60, **environment)
        said = "Unknown flag --lerning_rate. Did you mean learning_rate?"
        assert said in done.stdout, done.stdout
        assert "trials" not in {folder.name for folder in tmp_path.iterdir()}
        (run,) = service.runs.values()
        assert run["summary"] == {} and not service.trials["sweep0"]


def test_agents_on_two_nodes(tmp_path, words, slurm):  # noqa: F811
    path = write_sweep(tmp_path, **words, launcher=TWO_RANKS, learning_rates=[0.01, 0.001])
    log = tmp_path / "job.log"
    with StandIn() as service:
        slurm("wandb", "sweep", path, **service.environment)
        environment = {**service.environment, "WANDB_DIR": str(tmp_path)}
        job = slurm.submit(
            *("--nodes", 2, "--ntasks-per-node", 1, ROOT / "sweeps" / "run_sweep.sh", SWEEP_ID, 1),
            log=log,
            **environment,
        )
        text = slurm.wait(job, log=log, seconds=200)
        assert text.count("accelerate: 2 processes") == 2, text
        check_runs(service, tmp_path, number=2)
        assert len({run["agent"] for run in service.runs.values()}) == 2


def test_a_sweep_without_wandb(tmp_path, words, slurm):  # noqa: F811
    launcher = ["accelerate", "launch", "--main_process_port", "0"]
    path = write_sweep(tmp_path, **words, launcher=launcher, learning_rates=[0.01])
    folder = tmp_path / "study"
    run_local = ROOT / "sweeps" / "run_local.py"
    text = slurm("python", run_local, path, "--folder", folder, seconds=150)
    results = json.loads((folder / "trial-000" / "all_results.json").read_text())
    assert f"eval_accuracy {results['eval_accuracy']:.4g}" in text
    assert not (tmp_path / "wandb").exists() and not list(folder.glob("trial-*/wandb"))


def test_workers_on_two_nodes_share_a_study(tmp_path, slurm):  # noqa: F811
    from test_sweeps import PROGRAM

    (tmp_path / "prog.py").write_text(PROGRAM)
    sweep = {
        "program": "prog.py",
        "method": "grid",
        "metric": {"name": "eval/accuracy", "goal": "maximize"},
        "parameters": {"rate": {"values": [0.1, 0.2, 0.3, 0.4]}, "seconds": {"value": 1}},
        "command": ["${interpreter}", "${program}", "${args}"],
    }
    (tmp_path / "fake_sweep.yaml").write_text(yaml.safe_dump(sweep))
    for name in ("sweeps", "runs"):  # the job starts from the folder of the program
        os.symlink(ROOT / name, tmp_path / name)
    log = tmp_path / "job.log"
    job = slurm.submit(
        *("--nodes", 2, "--ntasks-per-node", 1, ROOT / "sweeps" / "run_sweep.sh"),
        *("fake_sweep.yaml", 4),
        cwd=tmp_path,
        log=log,
    )
    slurm.wait(job, log=log)
    lines = (tmp_path / "outputs" / "sweeps" / "fake" / "trials.csv").read_text().splitlines()
    assert sorted(line.split(",")[3] for line in lines[1:]) == ["0.1", "0.2", "0.3", "0.4"]


def test_an_unknown_sweep_ends_with_a_sentence(slurm: Slurm, tmp_path):  # noqa: F811
    unknown = "some-entity/some-project/none"
    log = tmp_path / "job.log"
    with StandIn() as service:
        environment = {**service.environment, "WANDB_DIR": str(tmp_path)}
        done = slurm.run("wandb", "agent", unknown, **environment)
        job = slurm.submit(
            *("--nodes", 1, "--ntasks-per-node", 1, ROOT / "sweeps" / "run_sweep.sh", unknown),
            log=log,
            **environment,
        )
        text = slurm.wait(job, log=log, until="FAILED", seconds=60)
    assert done.returncode != 0
    for said in (done.stdout, text):
        assert re.search(r"sweep.*none", said, re.IGNORECASE) and "Traceback" not in said
