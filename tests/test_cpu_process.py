"""Proves that memory which a process of this project frees is used again, not fetched anew from the
kernel, and that what the environment already says is left alone."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = 8
PAGES = (64 << 20) // 4096  # of a block
PROGRAM = f"""
import cpu_process, resource
size = 64 << 20
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * size
before = faults()
for _ in range({BLOCKS}):
    b"x" * size
print(faults() - before)
"""


def page_faults(**environment: str) -> int:
    """Of so many blocks of 64 MiB, each freed before the next."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    return int(
        subprocess.check_output(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, env=kept | environment, text=True
        )
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    assert page_faults() < PAGES / 10
    assert page_faults(MALLOC_MMAP_MAX_="65536") > 0.9 * BLOCKS * PAGES


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="no huge pages here"
)
def test_memory_comes_in_huge_pages_and_not_before_it_is_used():
    program = """
import cpu_process, re
def megabytes(name, file):
    return int(re.search(name + r":\\s+(\\d+)", open(f"/proc/self/{file}").read())[1]) // 1024
before = megabytes("VmRSS", "status")
data = b"x" * (256 << 20)
print(before, megabytes("AnonHugePages", "smaps_rollup"))
"""
    text = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    resident_mb, huge_mb = map(int, text.split())
    assert resident_mb < 60 and huge_mb >= 192


def test_a_limit_of_addresses_changes_nothing():
    words = ["bash", "-c", 'ulimit -v 2000000 && exec "$0" -c "import cpu_process; print(1)"']
    assert subprocess.check_output([*words, sys.executable], cwd=ROOT, text=True) == "1\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_idle_threads_spin_briefly_unless_told_otherwise(given, expected):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    words = [sys.executable, "-c", "import cpu_process, os; print(os.getenv('GOMP_SPINCOUNT'))"]
    text = subprocess.check_output(words, cwd=ROOT, env=environment | given, text=True)
    assert text.strip() == expected
