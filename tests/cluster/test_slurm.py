"""Proves, on a real Slurm of two nodes, that the shipped jobs train on both, come back from a
preemption to the losses of an undisturbed run, and run as an array; and that mistakes end soon."""

import json
import re
import socket
from pathlib import Path

import pytest
import yaml
from slurm_on_one_host import BIN, ROOT, slurm, wait_for  # noqa: F401 (fixture)
from test_scripts import fine_tuning_words, pre_trained, pre_training_words, task_dir, text_file  # noqa: F401 (fixtures)

pytestmark = pytest.mark.cluster

JOBS = ROOT / "runs" / "slurm"
STEPS = 300
ON_ONE_HOST = {"PROCESSES_PER_NODE": "1"}


def losses(folder: Path) -> list[tuple[int, float]]:
    history = json.loads((folder / "log_history.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory, text_file, tokenizer_dir):  # noqa: F811
    """A run on two nodes, and its words."""
    folder = tmp_path_factory.mktemp("two_nodes")
    words = pre_training_words(
        folder, text_file=text_file, tokenizer_dir=tokenizer_dir, steps=STEPS
    )
    words += ["--save_steps", "1000", "--eval_steps", str(STEPS), "--logging_steps", "10"]
    log = folder / "job.log"
    job = slurm.submit(
        *("--nodes", 2, JOBS / "many_nodes.sbatch", "pre_train_t5.py", *words),
        log=log,
        **ON_ONE_HOST,
    )
    text = slurm.wait(job, log=log)
    return folder / "out", words, text


def test_two_nodes_train_one_model(undisturbed):
    folder, _, text = undisturbed
    assert re.search(r"launch +torchrun: 2 processes on 1 node, each on CPU .*; DDP", text), text
    assert "x 2 processes" in text
    assert [step for step, _ in losses(folder)] == list(range(10, STEPS + 1, 10))
    assert (folder / "model.safetensors").exists()


def test_a_preempted_run_comes_back_to_the_same_losses(slurm, undisturbed, tmp_path):  # noqa: F811
    folder, words, _ = undisturbed
    log = tmp_path / "job.log"
    words = [*words, "--output_dir", str(tmp_path / "out")]
    job = slurm.submit(
        *("--nodes", 2, JOBS / "many_nodes.sbatch", "pre_train_t5.py", *words),
        log=log,
        **ON_ONE_HOST,
    )
    wait_for(lambda: log.exists() and "step     50/" in log.read_text(), seconds=120)
    slurm("scancel", "--batch", "--signal=USR1", job)
    slurm.wait(job, log=log, until="PENDING", seconds=60)
    (saved,) = [p.name for p in (tmp_path / "out").glob("checkpoint-*")]
    assert 50 <= int(saved.removeprefix("checkpoint-")) < STEPS
    assert not (tmp_path / "out" / "model.safetensors").exists()
    # Not in two minutes, but not at once: in the second in which the nodes revoked its credential
    # they would refuse it ("Killing non-startable batch").
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    text = slurm.wait(job, log=log)
    assert "was asked to stop; its step saves a checkpoint" in text
    assert losses(tmp_path / "out") == losses(folder)
    same = [path / "model.safetensors" for path in (folder, tmp_path / "out")]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_an_array_runs_each_line_in_its_own_folder(slurm, pre_trained, task_dir, tmp_path):  # noqa: F811
    lines = tmp_path / "lines.txt"
    lines.write_text("--seed 1 --learning_rate 0.003\n--seed 2 --learning_rate 0.002\n")
    words = fine_tuning_words(tmp_path / "none", task_dir=task_dir, model=pre_trained[0])
    job = slurm.submit(
        *("--array", "0-1", JOBS / "array.sbatch", "fine_tune_t5.py", *words),
        *("--num_train_epochs", 1),
        log=tmp_path / "job-%a.log",
        LINES_FILE=str(lines),
        OUTPUT_DIR=str(tmp_path / "out"),
    )
    slurm.wait(job, log=tmp_path / "job-0.log")
    given = [yaml.safe_load((tmp_path / "out" / n / "run.yaml").read_text()) for n in "01"]
    assert [(g["seed"], g["learning_rate"]) for g in given] == [(1, 0.003), (2, 0.002)]
    assert not (tmp_path / "none").exists()
    assert all((tmp_path / "out" / n / "all_results.json").exists() for n in "01")


def test_a_line_that_is_not_there(slurm, tmp_path):  # noqa: F811
    log = tmp_path / "job.log"
    job = slurm.submit("--array", "9", JOBS / "array.sbatch", "fine_tune_t5.py", log=log)
    slurm.wait(job, log=log, until="FAILED", seconds=30)
    assert "there are 8 lines, 0 to 7" in log.read_text()


def test_a_program_started_by_srun_alone_is_refused(slurm, tmp_path):  # noqa: F811
    done = slurm.run(
        *("srun", "-N2", "--ntasks-per-node=1", "python", "fine_tune_t5.py"),
        *("--output_dir", tmp_path / "out"),
    )
    assert done.returncode == 2 and "srun started this program 2 times" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_node_that_does_not_turn_up_ends_the_job(slurm, tmp_path):  # noqa: F811
    torchrun = tmp_path / "torchrun"  # on the second node, one that hangs
    torchrun.write_text(
        f'#!/bin/sh\n[ "$SLURMD_NODENAME" != n2 ] || exec sleep 300\nexec {BIN}/torchrun "$@"\n'
    )
    torchrun.chmod(0o755)
    log = tmp_path / "job.log"
    job = slurm.submit(
        *("--nodes", 2, JOBS / "many_nodes.sbatch", "fine_tune_t5.py", "--output_dir", tmp_path),
        log=log,
        **ON_ONE_HOST,
        JOIN_SECONDS="5",
        PATH=f"{tmp_path}:{slurm.environment['PATH']}",
    )
    assert "RendezvousTimeoutError" in slurm.wait(job, log=log, until="FAILED", seconds=90)


def test_a_port_in_use_is_said(slurm, tmp_path):  # noqa: F811
    log = tmp_path / "job.log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = slurm.submit(
            *("--nodes", 1, JOBS / "many_nodes.sbatch", "fine_tune_t5.py"),
            log=log,
            **ON_ONE_HOST,
            MASTER_PORT=str(port),
        )
        text = slurm.wait(job, log=log, until="FAILED", seconds=30)
    assert f"MASTER_PORT {port} of 127.0.0.1 is in use" in text
