"""Proves without a GPU that on one a training step keeps to one device and waits for no number."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a CUDA of its own")
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_no_number(tmp_path):
    library = tmp_path / "fake_cuda.so"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-shared", "-fPIC", str(HERE / "fake_cuda.cpp")),
            *("-o", str(library), f"-I{TORCH / 'include'}"),
            *(f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"),
        ],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, str(HERE / "fake_cuda_steps.py"), str(library)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps") == 2 * 4 * 2
