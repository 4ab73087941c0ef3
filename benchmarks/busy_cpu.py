"""What a training step costs beside busy processes, for each way CPU threads may wait.

    .venv/bin/python benchmarks/busy_cpu.py

Times forward + backward of the demo's model, beside 0, 1 and 2 processes that never rest, with
OpenMP's default, a short spin (this project's setting, cpu_process.py), no spin, and one thread.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

from record import append_row

WAYS = {
    "default": {},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
    "no spin": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEPS = 30
MOST_SECONDS = 60


def time_steps() -> list[float]:
    """Seconds of each step in this process."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=1152,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = T5ForConditionalGeneration(config)
    inputs, labels = torch.randint(3, 1000, (16, 64)), torch.randint(3, 1000, (16, 14))
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < STEPS and time.perf_counter() - began < MOST_SECONDS:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        seconds.append(time.perf_counter() - started)
    return seconds[len(seconds) // 3 :]


def measure(way: str, *, num_busy: int) -> float:
    """Median milliseconds of a step in a fresh process."""
    restless = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(restless) for _ in range(num_busy)]
    try:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        done = subprocess.run(
            [sys.executable, __file__, "--worker"],
            env={**environment, **WAYS[way]},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    return 1000 * statistics.median(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:] == ["--worker"]:
        print(json.dumps(time_steps()))
        return
    print(f"{'ms a step':<12}{'alone':>10}{'1 busy':>10}{'2 busy':>10}")
    for way in WAYS:
        milliseconds = [measure(way, num_busy=num_busy) for num_busy in range(3)]
        append_row("busy_cpu", {"way": way, "ms_beside_0_1_2_busy": milliseconds})
        print(f"{way:<12}" + "".join(f"{ms:>10.1f}" for ms in milliseconds), flush=True)


if __name__ == "__main__":
    main()
