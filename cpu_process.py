"""What suits a training process on a CPU, set before torch loads; scripts import this first.

Idle threads sleep soon. By default OpenMP's spin for long, which is fast on an idle machine; but
where anything else needs a core, every operation of torch waits for a thread that has lost its
turn. The demo's training step on 2 cores, beside 0, 1 and 2 busy processes: 40, 86 and 221 ms by
default, 37, 75 and 74 ms with a short spin (benchmarks/busy_cpu.py).

Freed memory stays with the process. By default glibc gives each large block back to the kernel when
it is freed, and the next one of the same size comes page by page, filled with zeros, for each of a
step's thousand tensors. What a process holds at most stays the same.

What is already set in the environment is left alone.
"""

import contextlib
import ctypes
import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# The parameters of mallopt(3), their names in the environment, and what they are set to.
MALLOC_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # never give back what is free at the end of the heap
    "MALLOC_MMAP_MAX_": (-4, 0),  # no block gets a mapping of its own
}


def keep_freed_memory() -> None:
    """Has no effect where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, (parameter, value) in MALLOC_SETTINGS.items():
            if name not in os.environ and "GLIBC_TUNABLES" not in os.environ:
                mallopt(parameter, value)


keep_freed_memory()
