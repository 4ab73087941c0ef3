"""Runs a W&B sweep without W&B: the same YAML, trials chosen by Optuna, nothing sent anywhere.

    python sweeps/run_local.py sweeps/glue_cola_sweep.yaml --count 20 --jobs 2
    srun python sweeps/run_local.py sweeps/glue_cola_sweep.yaml --count 20     # a worker per task
    python sweeps/run_local.py sweeps/glue_cola_sweep.yaml --count 20 -- --data_dir my_glue

Words after -- go to every trial. The same command again goes on: trials that were interrupted are
run again from their checkpoint, and --count is the number of trials in all. Workers on several
machines share the journal in --folder. Each trial has a folder of its own in it; trials.csv,
trials.png and the table that is printed name the best.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import math
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from errors import EXIT_USER_ERROR, UserError, did_you_mean, run_program  # noqa: E402
from evaluation_tables_t5 import TableReader  # noqa: E402
from whole_files import replacing, write_text  # noqa: E402

PROGRAMS = {"pre_train_t5.py": "PRE_TRAINING", "fine_tune_t5.py": "FINE_TUNING"}
EXIT_STOPPED = 75
STALE_SECONDS = 120
STOP_SECONDS = 90  # for a checkpoint after SIGTERM, before SIGKILL
MOST_FAILURES = 3


# ---- what a sweep says --------------------------------------------------------------------------


@dataclass
class Sweep:
    """One sweep file: what is run, what is varied and what counts."""

    name: str
    program: str
    method: str
    metric: str
    maximize: bool
    fixed: dict[str, object]
    space: dict[str, optuna.distributions.BaseDistribution]
    command: list[str]
    early_terminate: dict

    @property
    def result_name(self) -> str:
        """eval/loss -> eval_loss, its name in all_results.json and in log lines."""
        return self.metric.replace("/", "_")


def read_sweep(path: Path) -> Sweep:
    """The sweep of a YAML file in W&B's format; every parameter is a flag of its program."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The sweep {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The sweep {path} is not valid YAML: {error}") from error
    needed = ("program", "method", "metric", "parameters")
    missing = [n for n in needed if not isinstance(settings, dict) or n not in settings]
    if missing:
        raise UserError(f"The sweep {path} lacks {', '.join(missing)}: see sweeps/*_sweep.yaml.")
    if settings["method"] not in SAMPLERS:
        raise UserError(
            f"{path}: method {settings['method']}: expected {', '.join(SAMPLERS)}."
            f"{did_you_mean(settings['method'], SAMPLERS)}"
        )
    parameters = settings["parameters"]
    require_flags(parameters, program=settings["program"], path=path)
    fixed = {name: p["value"] for name, p in parameters.items() if "value" in p}
    space = {
        name: distribution_of(parameter, name=name, path=path)
        for name, parameter in parameters.items()
        if name not in fixed
    }
    if not space:
        raise UserError(f"The sweep {path} varies nothing: give a parameter `values` or min, max.")
    metric = settings["metric"]
    return Sweep(
        name=path.stem.removesuffix("_sweep"),
        program=settings["program"],
        method=settings["method"],
        metric=metric["name"],
        maximize=metric.get("goal", "minimize") == "maximize",
        fixed=fixed,
        space=space,
        command=[str(w) for w in settings.get("command", ("python", "${program}", "${args}"))],
        early_terminate=settings.get("early_terminate") or {},
    )


def require_flags(parameters: dict, *, program: str, path: Path) -> None:
    """Refuses a parameter that the program does not know, before any trial fails by it."""
    known = known_flags(program)
    for name, parameter in parameters.items():
        if not isinstance(parameter, dict) or "parameters" in parameter:
            raise UserError(
                f"{path}: parameter {name}: expected `value`, `values` or `min` and `max`; nested "
                "parameters are no flags."
            )
        if known is not None and name not in known and name != "config":
            raise UserError(
                f"{path}: parameter {name} is no flag of {program}.{did_you_mean(name, known)}"
            )


def known_flags(program: str) -> set[str] | None:
    """The flags of a program of this project, of another one None."""
    name = PROGRAMS.get(Path(program).name)
    if name is None:
        return None
    import arguments_t5
    from flags import flag_names

    return flag_names(getattr(arguments_t5, name))


def distribution_of(
    parameter: dict, *, name: str, path: Path
) -> optuna.distributions.BaseDistribution:
    """Optuna's distribution for a parameter of a W&B sweep."""
    if "values" in parameter:
        return optuna.distributions.CategoricalDistribution(parameter["values"])
    if not {"min", "max"} <= set(parameter):
        raise UserError(f"{path}: parameter {name}: expected `value`, `values` or `min` and `max`.")
    low, high = parameter["min"], parameter["max"]
    are_whole = isinstance(low, int) and isinstance(high, int)
    kind = parameter.get("distribution", "int_uniform" if are_whole else "uniform")
    if kind not in DISTRIBUTIONS:
        raise UserError(
            f"{path}: parameter {name}: distribution {kind} is not known here: expected "
            f"{', '.join(DISTRIBUTIONS)}.{did_you_mean(kind, DISTRIBUTIONS)}"
        )
    try:
        return DISTRIBUTIONS[kind](low, high, parameter.get("q", 1))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: parameter {name}: {error}") from error


_Float, _Int = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
DISTRIBUTIONS: dict[str, Callable[[float, float, float], optuna.distributions.BaseDistribution]] = {
    "int_uniform": lambda low, high, q: _Int(low, high),
    "uniform": lambda low, high, q: _Float(float(low), float(high)),
    "q_uniform": lambda low, high, q: _Float(float(low), float(high), step=float(q)),
    "log_uniform_values": lambda low, high, q: _Float(float(low), float(high), log=True),
    "log_uniform": lambda low, high, q: _Float(math.exp(low), math.exp(high), log=True),
}


# ---- how trials are chosen ----------------------------------------------------------------------


def grid_of(sweep: Sweep) -> dict[str, list]:
    """{flag: all its values}; a grid needs lists or whole numbers."""
    grid = {}
    for name, distribution in sweep.space.items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            grid[name] = list(distribution.choices)
        elif isinstance(distribution, _Int):
            grid[name] = list(range(distribution.low, distribution.high + 1))
        elif distribution.step:
            steps = round((distribution.high - distribution.low) / distribution.step)
            grid[name] = [distribution.low + i * distribution.step for i in range(steps + 1)]
        else:
            raise UserError(
                f"method grid: parameter {name} has no list of values. Give it `values`, or take "
                "method random or bayes."
            )
    return grid


class OnceOver(optuna.samplers.GridSampler):
    """Every combination once, trial n the n-th of an order that only the seed shuffles.

    The library's would stop a loop that is ours to stop.
    """

    def after_trial(self, study, trial, state, values):
        pass


class SeededByTrial(optuna.samplers.BaseSampler):
    """A sampler that draws by (seed, trial number) alone.

    So the choice of a trial is the same whichever worker makes it, before and after a restart, and
    two workers never draw the same numbers.
    """

    def __init__(
        self, kind: Callable[..., optuna.samplers.BaseSampler], sweep: Sweep, *, seed: int
    ):
        self.kind, self.sweep, self.seed = kind, sweep, seed

    def _for(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        state = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
        return self.kind(seed=int(state[0]))

    def infer_relative_search_space(self, study, trial):
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        names = list(self.sweep.space)
        sampler = self._for(trial)
        for name in names[: names.index(param_name) + 1]:  # each parameter its own draw
            value = sampler.sample_independent(study, trial, name, self.sweep.space[name])
        return value

    def before_trial(self, study, trial):
        self._for(trial).before_trial(study, trial)


TreeParzen = functools.partial(optuna.samplers.TPESampler, multivariate=True, constant_liar=True)

SAMPLERS: dict[str, Callable[[Sweep, int], optuna.samplers.BaseSampler]] = {
    "grid": lambda sweep, seed: OnceOver(grid_of(sweep), seed=seed),
    "random": lambda sweep, seed: SeededByTrial(optuna.samplers.RandomSampler, sweep, seed=seed),
    "bayes": lambda sweep, seed: SeededByTrial(TreeParzen, sweep, seed=seed),
}


def make_pruner(kind: str, sweep: Sweep) -> optuna.pruners.BasePruner:
    """Stops trials that are behind others at the same evaluation; steps count evaluations."""
    if kind == "sweep":
        kind = sweep.early_terminate.get("type", "none")
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=int(sweep.early_terminate.get("min_iter", 1)),
            max_resource=sweep.early_terminate.get("max_iter", "auto"),
            reduction_factor=int(sweep.early_terminate.get("eta", 3)),
        )
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    if kind == "none":
        return optuna.pruners.NopPruner()
    raise UserError(f"early_terminate: type {kind}: expected hyperband, median or none.")


def open_study(
    sweep: Sweep, *, folder: Path, early_stopping: str = "sweep", seed: int = 42
) -> optuna.Study:
    """The study in the folder's journal, made or found again, of this very sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        study_name=sweep.name,
        direction="maximize" if sweep.maximize else "minimize",
        sampler=SAMPLERS[sweep.method](sweep, seed),
        pruner=make_pruner(early_stopping, sweep),
        load_if_exists=True,
    )
    asked = {
        "metric": [sweep.metric, sweep.maximize],
        "space": {
            name: optuna.distributions.distribution_to_json(distribution)
            for name, distribution in sweep.space.items()
        },
    }
    found = study.user_attrs.get("sweep")
    if found is not None and found != asked:
        raise UserError(
            f"--folder {folder} holds the trials of another sweep (other parameters or another "
            "metric). Give another --folder."
        )
    study.set_user_attr("sweep", asked)
    return study


# ---- one trial ----------------------------------------------------------------------------------


def trial_folder(trial: FrozenTrial | optuna.Trial, folder: Path) -> Path:
    """A trial that goes on with an interrupted one has that one's folder."""
    return folder / trial.user_attrs.get("folder", f"trial-{trial.number:03d}")


def trial_words(sweep: Sweep, values: dict[str, object], *, extra: Sequence[str]) -> list[str]:
    """The sweep's command with its places filled in, as W&B's agent does it."""
    arguments = [f"--{name}={value}" for name, value in values.items()]
    places = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [sweep.program],
        "${args}": [*arguments, *extra],
    }
    words = []
    for word in sweep.command:
        word = re.sub(r"\$\{envvar:(\w+)\}", lambda m: os.environ.get(m[1], m[1]), word)
        words += places.get(word, [word])
    return words


def trial_environment(devices: str | None) -> dict[str, str]:
    """This environment without what is this process's own: a tracker's run, a Slurm task."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB_", "SLURM_STEP_", "SLURM_PROCID", "SLURM_NTASKS"))
    }
    environment["PYTHONUNBUFFERED"] = "1"
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return environment


class Stopped(Exception):
    """A worker was told to stop, or its trial was."""


class Workers:
    """`jobs` threads of this process that run trials until the study has `count` of them."""

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        *,
        folder: Path,
        count: int,
        jobs: int,
        extra: Sequence[str],
    ):
        self.sweep, self.study, self.folder = sweep, study, folder
        self.count, self.extra = count, extra
        self.asking = threading.Lock()
        self.stopping = threading.Event()
        self.failures = 0
        self.mistake: str | None = None
        self.devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for devices in shares_of_devices(jobs):
            self.devices.put(devices)
        self.threads = [threading.Thread(target=self._work) for _ in range(jobs)]

    def run(self) -> None:
        """Runs to the end, or until a signal or too many failures; then all trials are stopped."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, lambda *_: self.stopping.set())
        self._take_up_interrupted()
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            while thread.is_alive():
                thread.join(0.5)  # a signal is noticed between two joins
        if self.mistake is not None:
            raise UserError(self.mistake)
        if self.stopping.is_set():
            print("Stopped; the same command goes on.", flush=True)
            sys.exit(EXIT_STOPPED)

    def _work(self) -> None:
        devices = self.devices.get()
        while not self.stopping.is_set():
            trial = self._ask()
            if trial is None:
                return
            try:
                self._run_trial(trial, devices)
            except Stopped:
                self._interrupt(trial.number)
            except BaseException:
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                self.mistake = self.mistake or f"Trial {trial.number} broke off."
                self.stopping.set()
                raise

    def _ask(self) -> optuna.Trial | None:
        """The next trial, or None if there are enough. The last place goes to one worker only."""
        with self.asking:
            if len(counted(self.study)) >= self.count and not self._waiting():
                return None
            trial = self.study.ask(self.sweep.space)
            before = [t for t in counted(self.study) if t.number < trial.number]
            if len(before) >= self.count:
                trial.set_user_attr("not_counted", True)
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            return trial

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _run_trial(self, trial: optuna.Trial, devices: str | None) -> None:
        folder = trial_folder(trial, self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        trial.set_user_attr("folder", folder.name)
        trial.set_user_attr("worker", f"{socket.gethostname()} {os.getpid()}")
        values = {**self.sweep.fixed, **trial.params}
        values |= {"output_dir": str(folder), "report_to": "none"}
        words = trial_words(self.sweep, values, extra=self.extra)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
        print(f"trial {trial.number:>3}  starts    {shown}", flush=True)
        started = time.monotonic()
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                words,
                env=trial_environment(devices),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                is_poor = self._follow(trial, process, folder)
            finally:
                stop_group(process)
        seconds = time.monotonic() - started
        if is_poor:
            self.study.tell(trial, state=TrialState.PRUNED)
            print(f"trial {trial.number:>3}  poor, stopped after {seconds:.0f} s", flush=True)
            return
        if process.returncode in (EXIT_STOPPED, -signal.SIGTERM):
            self.stopping.set()
            raise Stopped
        self._tell_result(trial, folder, returncode=process.returncode, seconds=seconds)

    def _follow(self, trial: optuna.Trial, process: subprocess.Popen, folder: Path) -> bool:
        """Waits for a trial, reports its evaluations; True if it is poor and shall be stopped."""
        evaluations, unfinished, table = 0, "", TableReader(self.sweep.result_name)
        with (folder / "log.txt").open(encoding="utf-8", errors="replace") as log:
            log.seek(0, io.SEEK_END)
            while True:
                has_ended = process.poll() is not None
                lines = (unfinished + log.read()).split("\n")
                unfinished = lines.pop()
                for line in lines:
                    value = table.read(line)
                    if value is not None and math.isfinite(value):
                        evaluations += 1
                        trial.report(value, evaluations)
                        if trial.should_prune():
                            return True
                if has_ended:
                    return False
                if self.stopping.is_set():
                    raise Stopped
                (folder / ".alive").touch()
                time.sleep(0.2)

    def _tell_result(
        self, trial: optuna.Trial, folder: Path, *, returncode: int, seconds: float
    ) -> None:
        results = folder / "all_results.json"
        value = None
        if returncode == 0 and results.exists():
            value = json.loads(results.read_text()).get(self.sweep.result_name)
        if value is not None and math.isfinite(value):
            trial.set_user_attr("seconds", round(seconds, 1))
            self.study.tell(trial, value)
            self.failures = 0
            print(
                f"trial {trial.number:>3}  {self.sweep.result_name} {value:.4g}  "
                f"in {seconds:.0f} s",
                flush=True,
            )
            return
        self.study.tell(trial, state=TrialState.FAIL)
        last = ([line for line in (folder / "log.txt").read_text().splitlines() if line] or [""])[
            -1
        ]
        reason = f"exit code {returncode}" if returncode else f"no finite {self.sweep.result_name}"
        print(f"trial {trial.number:>3}  failed: {reason}: {last}", flush=True)
        self.failures += 1
        if returncode == EXIT_USER_ERROR or self.failures >= MOST_FAILURES:
            self.mistake = (
                f"Trial {trial.number} failed with {reason}: {last}\nAll it printed is in "
                f"{folder / 'log.txt'}. The same command goes on once the cause is gone."
            )
            self.stopping.set()

    # ---- interruptions ----

    def _interrupt(self, number: int) -> None:
        """Ends a running trial and puts its values in line again, to go on in the same folder."""
        trial = next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)
        storage = self.study._storage
        storage.set_trial_user_attr(trial._trial_id, "not_counted", True)
        try:
            self.study.tell(number, state=TrialState.FAIL)
        except (ValueError, RuntimeError):
            return  # another worker was first
        self.study.enqueue_trial(
            trial.params, user_attrs={"folder": trial_folder(trial, self.folder).name}
        )

    def _take_up_interrupted(self) -> None:
        """Running trials whose worker has not been heard of for two minutes, or is dead here."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, pid = trial.user_attrs.get("worker", " ").partition(" ")
            if host == socket.gethostname():
                is_lost = not Path(f"/proc/{pid or 'none'}").exists()
            else:
                alive = trial_folder(trial, self.folder) / ".alive"
                is_lost = alive.exists() and age_seconds(alive) > STALE_SECONDS
            if is_lost:
                print(f"trial {trial.number:>3}  was interrupted and is taken up again", flush=True)
                self._interrupt(trial.number)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: all but those that were interrupted and are run again."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and "not_counted" not in trial.user_attrs
    ]


def age_seconds(path: Path) -> float:
    """How old a file is by its own file system's clock."""
    now = path.with_name(f".now.{os.getpid()}")
    now.touch()
    age = now.stat().st_mtime - path.stat().st_mtime
    now.unlink()
    return age


def stop_group(process: subprocess.Popen) -> None:
    """Ends a trial with all its processes: SIGTERM, time for a checkpoint, SIGKILL."""
    for signum, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, signum)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def shares_of_devices(jobs: int) -> list[str | None]:
    """The visible GPUs dealt out to jobs: 8 GPUs, 2 jobs -> '0,1,2,3' and '4,5,6,7'."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        visible = ",".join(re.findall(r"^GPU (\d+)", listed.stdout, flags=re.MULTILINE))
    if not visible:
        return [None] * jobs
    names = visible.split(",")
    if len(names) < jobs:
        raise UserError(f"--jobs {jobs}: {len(names)} GPUs are visible. Type --jobs {len(names)}.")
    return [",".join(part) for part in np.array_split(names, jobs)]


# ---- what came out ------------------------------------------------------------------------------


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table_of(study: optuna.Study, sweep: Sweep) -> list[list[str]]:
    """A heading and one row per counted trial, the best first."""
    sign = -1 if sweep.maximize else 1
    trials = sorted(
        counted(study),
        key=lambda t: (t.state != TrialState.COMPLETE, sign * t.value if t.value else 0, t.number),
    )
    rows = [["trial", sweep.result_name, "state", *sweep.space]]
    for trial in trials:
        value = f"{trial.value:.4g}" if trial.state == TrialState.COMPLETE else "-"
        state = {"COMPLETE": "finished", "PRUNED": "poor", "FAIL": "failed"}.get(
            trial.state.name, "running"
        )
        values = [_short(trial.params.get(name, "")) for name in sweep.space]
        rows.append([str(trial.number), value, state, *values])
    return rows


def write_results(study: optuna.Study, sweep: Sweep, *, folder: Path) -> None:
    """Prints the table; writes trials.csv and trials.png."""
    rows = table_of(study, sweep)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / "trials.csv", text.getvalue())
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    print("\n".join(["", lines[0], "-" * len(lines[0]), *lines[1:]]))
    finished = [t for t in counted(study) if t.state == TrialState.COMPLETE]
    if not finished:
        print("\nNo trial has finished.")
        return
    draw_trials(finished, sweep, path=folder / "trials.png")
    best = trial_folder(study.best_trial, folder)
    print(
        f"\nBest: {best} ({sweep.result_name} {study.best_value:.4g}); python {sweep.program} "
        f"--config {best / 'run.yaml'} repeats it.\nPicture: {folder / 'trials.png'}"
    )


def draw_trials(trials: list[FrozenTrial], sweep: Sweep, *, path: Path) -> None:
    """The metric over each parameter that was varied, one panel each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1,
        len(sweep.space),
        figsize=(1 + 3 * len(sweep.space), 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, (name, distribution) in zip(panels[0], sweep.space.items(), strict=True):
        values = [trial.params[name] for trial in trials]
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            values = list(map(str, values))
        elif distribution.log:
            panel.set_xscale("log")
        panel.scatter(values, [trial.value for trial in trials])
        panel.set_xlabel(name)
    panels[0][0].set_ylabel(sweep.result_name)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
    pyplot.close(figure)


# ---- command line -------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message} (--help lists all flags.)")


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="A sweep in W&B's YAML format.")
    parser.add_argument("--count", type=int, default=20, help="Trials in all, of all workers.")
    parser.add_argument("--jobs", type=int, default=1, help="Trials at a time of this worker.")
    parser.add_argument("--folder", type=Path, help="Default: outputs/sweeps/NAME.")
    parser.add_argument(
        "--early_stopping",
        choices=["sweep", "none", "median", "hyperband"],
        default="sweep",
        help="Which trials are stopped as poor. sweep: what early_terminate of the file says.",
    )
    parser.add_argument("--seed", type=int, default=42, help="Seed of the choice of trials.")
    given = parser.parse_args(words)
    if given.count < 1 or given.jobs < 1:
        raise UserError("--count and --jobs: expected at least 1.")
    sweep = read_sweep(given.sweep)
    if not Path(sweep.program).exists():
        raise UserError(
            f"{given.sweep}: program {sweep.program} is not in this folder: start from the folder "
            "that holds it, as W&B's agent must be too."
        )
    folder = given.folder or Path("outputs", "sweeps", sweep.name)
    count = given.count
    if sweep.method == "grid":
        count = min(count, math.prod(len(values) for values in grid_of(sweep).values()))
    study = open_study(sweep, folder=folder, early_stopping=given.early_stopping, seed=given.seed)
    workers = Workers(
        sweep,
        study,
        folder=folder,
        count=count,
        jobs=given.jobs,
        extra=extra,
    )
    try:
        workers.run()
    finally:
        write_results(study, sweep, folder=folder)


if __name__ == "__main__":
    run_program(main)
