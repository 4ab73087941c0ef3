"""Proves that what is shipped for clusters holds together: every job is valid bash, asks in time to
be stopped and comes back, names programs and flags that exist, and the environments install the
lock."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb_stand_in import StandIn

from arguments_t5 import PRE_TRAINING
from flags import flag_names

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted([*ROOT.glob("runs/slurm/*.sbatch"), ROOT / "sweeps" / "run_sweep.sh"])
SCRIPTS = sorted([*JOBS, *ROOT.glob("runs/**/*.sh"), *ROOT.glob("sweeps/*.sh")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_valid_bash(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_a_job_is_asked_to_stop_in_time_and_comes_back(path):
    text = path.read_text()
    (seconds,) = re.findall(r"#SBATCH --signal=B:USR1@(\d+)", text)
    assert int(seconds) >= 300
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text
    assert 'source "$SLURM_SUBMIT_DIR/runs/slurm/requeue.sh"' in text
    assert re.search(r"^ *(\*.*\) )?run_step (srun|\"\$\{inside\[@\]\}\") ", text, re.MULTILINE)
    waits = re.findall(r"--shutdown-timeout (\d+)", text)
    assert all(int(wait) < int(seconds) for wait in waits)  # ranks are killed before the job is


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_a_job_without_words_says_how_it_is_started(path):
    done = subprocess.run(
        ["bash", str(path)],
        env={"PATH": "/usr/bin:/bin", "SLURM_JOB_NAME": "x", "SLURM_SUBMIT_DIR": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "sbatch" in done.stderr


@pytest.mark.parametrize("listens", [False, True], ids=["nothing there", "never an answer"])
def test_an_agent_without_network_ends_with_a_sentence(listens):
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        if listens:
            service.listen()
        address = f"http://127.0.0.1:{service.getsockname()[1]}"
        done = subprocess.run(
            ["bash", str(ROOT / "sweeps" / "run_sweep.sh"), "entity/project/sweep"],
            env={
                **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "SLURM_SUBMIT_DIR": str(ROOT),
                "WANDB_BASE_URL": address,
                "ANSWER_SECONDS": "1",
            },
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 2
    assert f"W&B does not answer at {address}" in done.stderr and ".yaml" in done.stderr


def test_a_service_that_answers_is_asked_for_trials():
    with StandIn() as service:
        subprocess.run(
            ["bash", str(ROOT / "sweeps" / "require_wandb.sh")],
            env={**os.environ, **service.environment, "no_proxy": "127.0.0.1"},
            check=True,
            timeout=30,
        )


def test_flags_that_jobs_add_exist():
    texts = [path.read_text() for path in (*JOBS, ROOT / "runs" / "two_machines.sh")]
    assert sum("--expect_processes" in text for text in texts) == 4
    assert {"expect_processes", "output_dir"} <= flag_names(PRE_TRAINING)


@pytest.mark.parametrize("name", ["job", "sweep"])
def test_a_kubernetes_manifest_names_what_is_there(name):
    documents = list(
        yaml.safe_load_all((ROOT / "runs" / "kubernetes" / f"{name}.yaml").read_text())
    )
    (job,) = [document for document in documents if document["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = container["command"]
    program = next(word for word in words if word.endswith(".py"))
    assert (ROOT / program).exists()
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    if name == "job":
        given = dict(w[2:].split("=", 1) for w in words if w.startswith("--"))
        nodes, each = int(given["nnodes"]), int(given["nproc-per-node"])
        assert nodes == job["spec"]["completions"]
        assert each == container["resources"]["limits"]["nvidia.com/gpu"]
        assert int(given["expect_processes"]) == nodes * each
        (service,) = [document for document in documents if document["kind"] == "Service"]
        assert pod["subdomain"] == service["metadata"]["name"]
        first = f"{job['metadata']['name']}-0.{pod['subdomain']}"
        assert given["rdzv-endpoint"].startswith(first + ":")


def test_conda_and_docker_install_the_lock():
    conda = yaml.safe_load((ROOT / "conda_environment_slurm.yml").read_text())
    (pip,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    assert pip == ["-r requirements.lock"] and "python=3.11" in conda["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    for package in ("datasets", "deepspeed", "accelerate", "wandb", "torch"):
        assert re.search(rf"^{package}==", lock, flags=re.MULTILINE), package
    image = (ROOT / "Dockerfile").read_text()
    assert "FROM python:3.11" in image and "RUN make install" in image and '"demo"' in image
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve().exists()
