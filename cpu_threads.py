"""Lets idle CPU threads sleep soon; imported before torch, whose OpenMP reads this when it loads.

By default they spin for long, which is fast on an idle machine; but where anything else needs a
core, every operation of torch waits for a thread that has lost its turn. The demo's training step
on 2 cores, beside 0, 1 and 2 busy processes (benchmarks/busy_cpu.py): 40, 86 and 221 ms by
default, 37, 75 and 74 ms with a short spin. A value that is already set is left alone.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
