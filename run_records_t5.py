"""What a run has left on disk, finished or not: its settings, its log, its scores.

RUN/log_history.json, all_results.json      a finished run
RUN/checkpoint-N/trainer_state.json         one that still goes on or was stopped: the newest
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from errors import UserError

NO_SCORES = ("_runtime", "_per_second", "epoch", "total_flos")
SCORED = ("eval_", "test_")

Point = tuple[float, float]


def scores_of(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that say how good the model is; speeds and counts left out."""
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(SCORED) and not name.endswith(NO_SCORES)
    }


def series_of(log: Sequence[dict], name: str) -> list[Point]:
    """(step, value) of every entry that has the value.

    Of two at one step the first: at the end of a run, the second is the best model's.
    """
    found: dict[float, float] = {}
    for entry in log:
        if _is_number(entry.get(name)):
            found.setdefault(entry["step"], entry[name])
    return sorted(found.items())


def score_names(log: Sequence[dict]) -> list[str]:
    """The scores of held-out data that a log has, losses left out, in the order they appear."""
    names = dict.fromkeys(name for entry in log for name in scores_of(entry))
    return [name for name in names if name.startswith("eval_") and not name.endswith("loss")]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class RunRecord:
    """One run: what it is called, and what it has left so far."""

    name: str
    folder: Path
    settings: dict[str, object]
    log: list[dict]
    results: dict[str, float]
    is_finished: bool

    @cached_property
    def scores(self) -> dict[str, float]:
        """Those of the end; of an unfinished run the newest of the log."""
        if self.is_finished:
            return scores_of(self.results)
        newest: dict[str, float] = {}
        for entry in self.log:
            newest |= scores_of(entry)
        return newest

    @property
    def last_step(self) -> int:
        return max((int(entry.get("step", 0)) for entry in self.log), default=0)


def read_run(folder: str | Path) -> RunRecord:
    """The record of an output folder."""
    folder = Path(folder)
    checkpoints = _checkpoints(folder)
    log, results = _read(folder / "log_history.json"), _read(folder / "all_results.json")
    if log is None and checkpoints:
        log = _log_of(checkpoints[-1] / "trainer_state.json")
    if log is None and results is None:
        raise UserError(
            f"{folder} is no folder of a run: it holds neither log_history.json nor a checkpoint. "
            "Give an --output_dir of pre_train_t5.py or fine_tune_t5.py."
        )
    places = [folder, *reversed(checkpoints)]
    settings = next((p for p in (place / "run.yaml" for place in places) if p.exists()), None)
    return RunRecord(
        name=folder.resolve().name,
        folder=folder,
        settings=_settings_of(settings) if settings else {},
        log=log or [],
        results=results or {},
        is_finished=results is not None,
    )


def read_runs(folders: Sequence[str | Path]) -> list[RunRecord]:
    """The records of several folders, each once; those of one name have their parents' in front.

    a/x/run, b/x/run, c -> a/x/run, b/x/run, c
    """
    folders = list({Path(folder).resolve(): folder for folder in folders}.values())
    records = [read_run(folder) for folder in folders]
    for length in range(2, max(len(r.folder.resolve().parts) for r in records) + 1):
        counts = Counter(record.name for record in records)
        records = [
            replace(record, name="/".join(record.folder.resolve().parts[-length:]))
            if counts[record.name] > 1
            else record
            for record in records
        ]
    return records


def different_settings(records: Sequence[RunRecord]) -> dict[str, list[object]]:
    """{setting: its value in each run} of those that are not the same everywhere."""
    names = dict.fromkeys(name for record in records for name in record.settings)
    values = {name: [record.settings.get(name) for record in records] for name in names}
    return {
        name: of_runs
        for name, of_runs in values.items()
        if name != "output_dir" and any(value != of_runs[0] for value in of_runs)
    }


def _checkpoints(folder: Path) -> list[Path]:
    found = [
        path.parent
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _log_of(state_file: Path) -> list[dict]:
    state = _read(state_file)
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise UserError(f"{state_file} cannot be read (no log_history). Leave this run out.")
    return state["log_history"]


def _settings_of(path: Path) -> dict[str, object]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({error}). Leave this run out.") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} cannot be read (no names and values). Leave this run out.")
    return settings


def _read(path: Path) -> dict | list | None:
    """What a JSON file holds, None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). Leave this run out.") from error
