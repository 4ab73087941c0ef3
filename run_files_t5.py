"""What every run leaves and finds in its folder: its settings, and that they are still the same."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from errors import UserError
from recipes_t5 import literal
from whole_files import write_text

SECRETS = ("hub_token",)


def make_output_dir(output_dir: str) -> Path:
    """The output folder, made and written to once, before any long work."""
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir} cannot be written ({error.strerror}). Give a folder that "
            "can."
        ) from error
    return folder


def without_secrets(text: str) -> str:
    """sftp://user:password@host/runs -> sftp://***@host/runs, wherever it stands in a text."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def write_run_yaml(folder: Path, given: dict[str, object]) -> None:
    """All settings of a run but secrets: `--config run.yaml` repeats it."""
    text = yaml.safe_dump(literal(given), sort_keys=False, allow_unicode=True)
    write_text(folder / "run.yaml", "# --config run.yaml repeats this run.\n" + text)


# What may change between an interruption and the same command again.
MAY_DIFFER = (
    *("output_dir", "resume_from_checkpoint", "report_to", "run_name", "disable_tqdm"),
    *("logging_steps", "save_steps", "save_total_limit", "per_device_eval_batch_size"),
    *("dataloader_num_workers", "show_examples", "num_samples", "tokenized_dataset_dir"),
    *("local_rank", "expect_processes"),
    *("dry_run", "plan", "plan_devices", "plan_device", "plan_memory"),
    *("plan_utilisation", "plan_price"),
    *("preprocess_only", "preprocessing_num_workers"),
    # Their product with the number of ranks is what must stay, and the checkpoint knows it.
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
    *("max_failed_saves", "stop_after_hours", "hang_timeout_minutes", "replay"),
    *("remote_checkpoint_dir", "remote_keep_last", "remote_wait_minutes", "ddp_timeout"),
)


def require_same_run(checkpoint: Path, given: dict[str, object]) -> None:
    """Refuses to go on with the checkpoint of a run that had other settings."""
    path = checkpoint / "run.yaml"
    if not path.exists():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [
        f"{name} was {before[name]} and is {value}"
        for name, value in given.items()
        if name in before and name not in MAY_DIFFER and before[name] != literal(value)
    ]
    if changed:
        raise UserError(
            f"--output_dir holds {checkpoint.name} of a run with other settings "
            f"({'; '.join(changed)}). Give another --output_dir, --resume_from_checkpoint none to "
            "start over, or --resume_from_checkpoint CHECKPOINT to go on with the new settings."
        )
