"""fine_tune_t5.py under FSDP2 on CPUs, where accelerate takes the word FSDP and stays with DDP.

What is replaced is that choice alone (PartialState._prepare_backend knows FSDP for devices other
than CPUs); sharding, saving and loading are the libraries' own, over gloo.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

import fine_tune_t5  # noqa: E402
from errors import run_program  # noqa: E402


def main() -> None:
    import torch.distributed as dist
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    dist.init_process_group("gloo")
    fine_tune_t5.main()


if __name__ == "__main__":
    run_program(main)
