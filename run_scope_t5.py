"""One run inside a process that goes on, as in a notebook: what it changes there is put back.

Besides, what it says is quiet: a library's warning is said once however often it comes, and of
several ranks only the first one speaks, but for errors, which name theirs and are never held back.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from errors import EXIT_STOPPED, EXIT_USER_ERROR, StoppedOnRequest, UserError
from terminal_t5 import clear_bars

ROOT = Path(__file__).resolve().parent
EXIT_DEFECT = 1


def one_run(main: Callable[..., Any]) -> Callable[..., Any]:
    """`main` as it is, but leaving the process as it was found, however it ends."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            for part in PARTS:
                stack.enter_context(part())
            return main(*args, **kwargs)

    return run


def rank_of_process() -> int:
    return int(os.environ.get("RANK", "0"))


# ---- what is said -------------------------------------------------------------------------------


class Quiet(logging.Filter):
    """Lets a library's warning through once, and from other ranks than 0 only errors, named."""

    def __init__(self, *, rank: int):
        super().__init__()
        self.rank = rank
        self.seen: set[tuple[str, int, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if self.rank and record.levelno < logging.ERROR:
            return False
        if self.rank and not hasattr(record, "names_rank"):
            record.msg, record.args = f"rank {self.rank}: {record.getMessage()}", ()
            record.names_rank = True
        is_own = Path(record.pathname).parent == ROOT
        key = (record.name, record.levelno, record.getMessage())
        if record.levelno == logging.WARNING and not is_own:
            if key in self.seen:
                return False
            self.seen.add(key)
        clear_bars()
        return True


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """A filter on every handler that there is."""
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    handlers = {h for logger in loggers for h in getattr(logger, "handlers", ())}
    handlers |= {logging.lastResort} if logging.lastResort else set()
    quiet = {handler: Quiet(rank=rank_of_process()) for handler in handlers}
    for handler, each in quiet.items():
        handler.addFilter(each)
    try:
        yield
    finally:
        for handler, each in quiet.items():
            handler.removeFilter(each)


@contextlib.contextmanager
def quiet_warnings() -> Iterator[None]:
    """The same for Python's warnings, wherever in a library each comes from."""
    seen: set[tuple[type, str]] = set()
    rank = rank_of_process()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_once(message, category, *args, **kwargs) -> None:
            key = (category, str(message))
            if rank == 0 and key not in seen:
                seen.add(key)
                clear_bars()
                show(message, category, *args, **kwargs)

        warnings.showwarning = show_once
        yield


# ---- what is put back ---------------------------------------------------------------------------


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """Libraries leave settings of one run there that the next would take up."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update({n: v for n, v in before.items() if os.environ.get(n) != v})


@contextlib.contextmanager
def same_signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None))
    before = {number: signal.getsignal(number) for number in numbers if number is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                with contextlib.suppress(ValueError):  # not the main thread, which can set none
                    signal.signal(number, handler)


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """The library's trainer seeds every global generator."""
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        torch.cuda.set_rng_state_all(of_gpus)


@contextlib.contextmanager
def same_library_state() -> Iterator[None]:
    """No process group, device, precision or DeepSpeed of this run is there for the next.

    Under a launcher the processes stay together: they end with their runs.
    """
    was_launched = "WORLD_SIZE" in os.environ
    had_group = _has_process_group()
    before = [dict(state) for state in _accelerate_states()]
    bars = sys.modules.get("transformers.utils.logging")
    had_bars = bars is None or bars.is_progress_bar_enabled()
    try:
        yield
    finally:
        if not was_launched:
            if _has_process_group() and not had_group:
                sys.modules["torch"].distributed.destroy_process_group()
            for state, content in itertools.zip_longest(_accelerate_states(), before):
                state.clear()
                state.update(content or {})
            if deepspeed := sys.modules.get("transformers.integrations.deepspeed"):
                deepspeed.unset_hf_deepspeed_config()
        if had_bars and (bars := sys.modules.get("transformers.utils.logging")):
            bars.enable_progress_bar()


def _has_process_group() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch and torch.distributed.is_available() and torch.distributed.is_initialized())


def _accelerate_states() -> list[dict]:
    """What accelerate's singletons know; [] where it is not loaded."""
    module = sys.modules.get("accelerate.state")
    names = ("PartialState", "AcceleratorState", "GradientState") if module else ()
    return [getattr(module, name)._shared_state for name in names]


@contextlib.contextmanager
def own_tracking() -> Iterator[None]:
    """A W&B run that this one began ends with it; else the next would be logged into it."""
    before = _tracked()
    exit_code = 0
    try:
        yield
    except BaseException as error:
        codes = {StoppedOnRequest: EXIT_STOPPED, UserError: EXIT_USER_ERROR}
        fitting = (code for kind, code in codes.items() if isinstance(error, kind))
        exit_code = next(fitting, EXIT_DEFECT)
        raise
    finally:
        if _tracked() is not None and _tracked() is not before:
            sys.modules["wandb"].finish(exit_code=exit_code)


def _tracked() -> object:
    return getattr(sys.modules.get("wandb"), "run", None)


# Entered in this order and left in the other: a tracker still needs its environment.
PARTS = (
    *(quiet_logs, quiet_warnings, same_environment, same_signal_handlers, same_random_numbers),
    *(same_library_state, own_tracking),
)
