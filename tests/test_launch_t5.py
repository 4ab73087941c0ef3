"""Proves that a run says what was launched and refuses what would silently be something else: by
the variables and command lines that the launchers leave. tests/cluster has the real launches."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from errors import UserError
from launch_t5 import (
    describe_launch,
    launcher_name,
    processes_asked_of_accelerate,
    require_one_run,
    require_own_devices,
)

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = ["/bin/python", "/bin/accelerate", "launch"]


def test_one_run_of_as_many_as_announced_is_fine():
    require_one_run({"WORLD_SIZE": "4"}, num_ranks=4, parent_words=[])
    require_one_run({}, num_ranks=1, parent_words=["bash"])
    require_one_run({"SLURM_STEP_NUM_TASKS": "1"}, num_ranks=1, parent_words=[])
    require_one_run(
        {"SLURM_STEP_NUM_TASKS": "2", "WANDB_SWEEP_ID": "x"}, num_ranks=1, parent_words=[]
    )


@pytest.mark.parametrize(
    ("environment", "parent", "sentence"),
    [
        ({"WORLD_SIZE": "2"}, [], "separate runs in one --output_dir.*--use_cpu"),
        (
            {},
            [*ACCELERATE, "--cpu", "--num_processes", "2", "a.py"],
            "asked for 2.*has started one",
        ),
        ({"SLURM_STEP_NUM_TASKS": "3"}, [], "srun started this program 3 times"),
    ],
)
def test_separate_runs_in_one_folder_are_refused(environment, parent, sentence):
    with pytest.raises(UserError, match=sentence):
        require_one_run(environment, num_ranks=1, parent_words=parent)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["--num_processes", "2", "a.py"], 2),
        (["--num-processes=3", "a.py"], 3),
        (["a.py", "--num_processes", "2"], 1),
        ([], 1),
    ],
)
def test_what_accelerate_was_asked_for(words, number, tmp_path):
    environment = {"HF_HOME": str(tmp_path)}
    assert processes_asked_of_accelerate([*ACCELERATE, *words], environment=environment) == number
    assert processes_asked_of_accelerate(["python", *words], environment=environment) == 1


def test_what_accelerates_configuration_file_asks_for(tmp_path):
    (tmp_path / "four.yaml").write_text("num_processes: 4\n")
    words = [*ACCELERATE, "--config_file", str(tmp_path / "four.yaml"), "a.py"]
    assert processes_asked_of_accelerate(words, environment={}) == 4
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 5\n")
    home = {"HF_HOME": str(tmp_path)}
    assert processes_asked_of_accelerate([*ACCELERATE, "a.py"], environment=home) == 5


def test_two_ranks_on_one_gpu_are_refused():
    require_own_devices([("a", ""), ("a", ""), ("a", "gpu-1"), ("b", "gpu-1")])
    with pytest.raises(UserError, match="Ranks 0 and 2 both have GPU gpu-1 of a"):
        require_own_devices([("a", "gpu-1"), ("b", "gpu-1"), ("a", "gpu-1")])


def test_the_line_that_says_what_was_launched():
    one = describe_launch(["a"], launcher="python", device="CPU (2 threads)", engine="")
    assert one == "python: 1 process on 1 node, on CPU (2 threads)"
    four = describe_launch(["a", "a", "b"], launcher="torchrun", device="H100", engine="DDP")
    assert four == "torchrun: 3 processes on 2 nodes (a 2, b 1), each on H100; DDP"


def test_launchers_are_known_by_what_they_leave():
    assert launcher_name({}) == "python"
    assert launcher_name({"CROSS_SIZE": "1", "WORLD_SIZE": "2"}) == "deepspeed"
    assert launcher_name({"ACCELERATE_MIXED_PRECISION": "no"}) == "accelerate"
    assert launcher_name({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}) == "torchrun"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "runs" / "accelerate").glob("*.yaml")), ids=lambda p: p.name
)
def test_accelerate_reads_the_shipped_configurations(path):
    settings = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == settings["num_processes"]
    assert not config.use_cpu  # with use_cpu, accelerate starts one process whatever was asked for
    zero = (config.deepspeed_config or {}).get("deepspeed_config_file")
    assert zero is None or (ROOT / zero).exists()


RANK_THAT_ENDS = """
import atexit, sys, torch
from errors import StoppedOnRequest, run_program

class Tidied:
    def __del__(self):
        print("tidied up")

kept = Tidied()
atexit.register(print, "goodbye")

def main():
    if sys.argv[2] == "rank":
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1
        )
    if sys.argv[3] == "75":
        raise StoppedOnRequest("stopped")

run_program(main)
"""


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize(
    ("kind", "said"), [("rank", "goodbye\n"), ("alone", "goodbye\ntidied up\n")]
)
def test_a_rank_ends_without_the_interpreters_tidying_up(kind, said, code, tmp_path):
    """There torch's threads sometimes abort it; what was registered for the end is still called."""
    command = [sys.executable, "-c", RANK_THAT_ENDS, str(tmp_path / "store"), kind, str(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, said), done.stderr
