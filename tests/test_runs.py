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
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
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


def two_machines(first: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(ROOT / "runs" / "two_machines.sh"), first, "2", "none.py"],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_port_in_use_on_the_first_machine_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = two_machines("127.0.0.1", PORT=port)
    assert done.returncode == 2 and f"Port {port} of 127.0.0.1 is in use" in done.stderr


def test_a_first_machine_that_is_not_known_is_said():
    done = two_machines("no-such-machine.invalid")
    assert done.returncode == 2 and "no-such-machine.invalid is not known here" in done.stderr


def test_the_look_at_the_port_lets_other_machines_and_free_ports_through(tmp_path):
    (tmp_path / "torchrun").write_text("#!/bin/sh\necho started\n")
    (tmp_path / "torchrun").chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for first in ("127.0.0.1", "192.0.2.1"):  # the second belongs to no machine (RFC 5737)
        assert two_machines(first, PORT=str(port), PATH=path).stdout == "started\n"


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


def pinned(lock: str, *, python: str) -> dict[str, Version]:
    """{package: version} of the lock for one Python on Linux."""
    place = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    lines = [line.partition("  #")[0] for line in lock.splitlines() if "==" in line]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate(place):
            assert requirement.name not in found, f"{requirement.name} twice for {python}"
            (exact,) = requirement.specifier
            found[requirement.name] = Version(exact.version)
    return found


CONDA = yaml.safe_load((ROOT / "conda_environment_slurm.yml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_satisfies_every_dependency(python):
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{python}.0")
    versions = pinned(LOCK, python=python)
    place = {**default_environment(), "python_version": python}
    for words in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(words)
        if wanted.marker is None or wanted.marker.evaluate(place):
            version = versions.get(wanted.name)
            assert version is not None, f"{words} is not in the lock for {python}: make lock"
            assert wanted.specifier.contains(version), f"{words} for {python}: make lock"


def test_conda_brings_python_and_the_lock():
    assert CONDA["dependencies"][-1] == {"pip": ["-r requirements.lock"]}
    assert {"pip", "gxx", "make"} <= set(CONDA["dependencies"][:-1])
    python = next(word for word in CONDA["dependencies"] if word.startswith("python="))[7:]
    assert {"ninja", "datasets", "deepspeed"} <= pinned(LOCK, python=python).keys()


def test_the_image_installs_what_conda_does_and_copies_what_is_there():
    image = (ROOT / "Dockerfile").read_text()
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)-slim", image, flags=re.MULTILINE)
    assert f"python={python}" in CONDA["dependencies"]
    (packages,) = re.findall(r"apt-get install (.*?)\\", image)
    assert {"g++", "make", "git"} <= set(packages.split())
    copied = [w for line in re.findall(r"^COPY (.*) \S+$", image, re.M) for w in line.split()]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert copied == ["requirements.lock", "Makefile", "."]  # the lock first: layers are kept
    assert all((ROOT / name).exists() for name in copied) and not set(copied) & set(ignored)
    makefile = (ROOT / "Makefile").read_text()
    words = [*re.findall(r"^RUN make (\w+)", image, re.M), *re.findall(r'"make", "(\w+)"', image)]
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    words += re.findall(r"make (\w+)", container["postCreateCommand"])
    assert words == ["install", "demo", "install"]
    assert all(re.search(rf"^{word}:", makefile, re.M) for word in words)
    (workdir,) = re.findall(r"^WORKDIR (\S+)", image, re.M)
    (environment,) = re.findall(r"^VENV := (\S+)", makefile, re.M)
    assert f"ENV PATH={workdir}/{environment}/bin:$PATH" in image
    assert f'--volume "$PWD:{workdir}"' not in image  # it would hide the packages
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith(f"/{environment}/bin/python")
    dockerfile = ROOT / ".devcontainer" / container["build"]["dockerfile"]
    assert dockerfile.resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / container["build"]["context"]).resolve() == ROOT
