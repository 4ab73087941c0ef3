"""Which DeepSpeed configurations can work, said before anything is started."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from errors import UserError

# Optimizers that look at whole matrices: their norm, their rows and columns, their singular
# vectors. ZeRO shows an optimizer one flat vector of its share of all of them.
WHOLE_MATRIX = ("adafactor", "galore", "apollo", "lomo", "adalomo", "muon", "lamb", "lars", "soap")


def read_zero(path: str) -> dict:
    """The settings of a DeepSpeed configuration file."""
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--deepspeed {path} cannot be read: {error.strerror}. Shipped are "
            "zero_stage2_config.json, zero_stage3_config.json and both with _offload."
        ) from error
    except ValueError as error:
        raise UserError(f"--deepspeed {path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"--deepspeed {path} must hold one JSON object.")
    return settings


def zero_stage(settings: dict) -> int:
    """The stage of ZeRO that a configuration asks for; 0 is plain data parallelism."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def require_possible(path: str, *, optimizer: str, is_own: bool, bf16: bool, fp16: bool) -> None:
    """Refuses combinations of optimizer, precision and stage that fail late or silently.

    `is_own` says that the optimizer is this project's; those scale each matrix by its own size.
    """
    settings = read_zero(path)
    zero = settings.get("zero_optimization", {})
    stage = zero_stage(settings)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"--deepspeed {path}: ZeRO stage {stage}: expected 0, 1, 2 or 3.")
    if is_own or optimizer.startswith(WHOLE_MATRIX):
        raise UserError(
            f"--optim {optimizer} scales each matrix by its own size, and DeepSpeed shows an "
            "optimizer one flat vector of all of them. With --deepspeed give --optim "
            "adamw_torch --learning_rate 1e-4."
        )
    if "optimizer" in settings and not optimizer.startswith("adamw"):
        raise UserError(
            f"--optim {optimizer} would have no effect: {path} has an optimizer of its own "
            f"({settings['optimizer'].get('type')}). Take that section out, or give --optim "
            "adamw_torch."
        )
    if "scheduler" in settings:
        raise UserError(
            f"--deepspeed {path}: its scheduler would replace --lr_scheduler_type. Take that "
            "section out."
        )
    for name, flag, is_set in (("bf16", "--bf16", bf16), ("fp16", "--fp16", fp16)):
        wanted = settings.get(name, {}).get("enabled", "auto")
        if wanted != "auto" and bool(wanted) != is_set:
            raise UserError(
                f'--deepspeed {path}: {name} "enabled": {json.dumps(wanted)}, but {flag} is '
                f'{is_set} here. Write "auto", or give {flag} {bool(wanted)}.'
            )
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        raise UserError(
            f'--deepspeed {path}: ZeRO-3 without "stage3_gather_16bit_weights_on_model_save": '
            "true saves models without weights. Add that line."
        )
    offloads = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    is_forced = settings.get("zero_force_ds_cpu_optimizer", True)
    if offloads and "optimizer" not in settings and is_forced:
        raise UserError(
            f"--deepspeed {path}: with offload_optimizer, DeepSpeed takes its own Adam only. Add "
            'an "optimizer" section of type AdamW, as zero_stage2_offload_config.json has, or '
            '"zero_force_ds_cpu_optimizer": false.'
        )


def extensions_folder() -> Path:
    """Where torch keeps what it compiled."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions")


def require_no_stale_build(root: Path) -> None:
    """Refuses the lock of a compilation that was killed: DeepSpeed waits for its end for ever.

    `root` is torch's folder of compiled extensions. A lock counts as left behind after an hour.
    """
    for lock in sorted(root.glob("**/lock")):
        build = lock.with_name("build.ninja")
        if not build.exists() or "deepspeed" not in build.read_text(errors="replace"):
            continue
        hours = (time.time() - lock.stat().st_mtime) / 3600
        if hours > 1:
            raise UserError(
                f"{lock} was left {hours:.0f} h ago by a compilation that did not end, and "
                f"DeepSpeed would wait for it for ever. If none is running: rm -r {lock.parent}"
            )


def join_cpu_ranks() -> None:
    """Makes DeepSpeed know the ranks before a model is made, as the library does it for GPUs only.

    ZeRO-3 shares out the weights while it loads them; ignorant of the ranks it stops there, with a
    batch size that does not fit.
    """
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
