"""What a user did that cannot work, said in one sentence, and the exit codes of every program."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # sysexits.h: a temporary failure, try again
EXIT_INTERRUPTED = 130  # as a shell says it: 128 + SIGINT


class UserError(ValueError):
    """A mistake of the user's: the message says what was asked, what was found and what to type."""


class SaidElsewhere(UserError):
    """A mistake that another rank of this run says, so that this one is quiet."""


class Problems:
    """Gathers the UserErrors raised inside `with problems:`, so that all are said together."""

    def __init__(self):
        self.found: list[str] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, UserError):
            return False
        self.add(str(error))
        return True

    def add(self, message: str) -> None:
        if message not in self.found:
            self.found.append(message)

    def raise_all(self) -> None:
        """Nothing where there are none; one stands alone, several are numbered."""
        if len(self.found) == 1:
            raise UserError(self.found[0])
        if self.found:
            lines = [f"  {number}. {text}" for number, text in enumerate(self.found, start=1)]
            raise UserError("\n".join([f"{len(self.found)} problems:", *lines]))


class StoppedOnRequest(Exception):
    """A run that ended early because it was asked to: the message says why and what is saved."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the nearest known name, or '' where none is near."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Leaves with the exit codes of the contract where what it surrounds does not succeed.

    A UserError becomes one message on standard error and exit code 2, a run stopped on request
    exit code 75; anything else keeps its traceback, because it is a defect. Under a launcher every
    other rank than 0 names itself.
    """
    try:
        yield
    except UserError as error:
        if not isinstance(error, SaidElsewhere):
            _say(error)
        sys.exit(EXIT_USER_ERROR)
    except StoppedOnRequest as stopped:
        if os.environ.get("RANK", "0") == "0":
            _say(stopped)
        _leave(EXIT_STOPPED)
    except KeyboardInterrupt:
        _say("Interrupted at once; the last complete checkpoint stays as it is.")
        sys.exit(EXIT_INTERRUPTED)


def end_quietly_when_interrupted() -> None:
    """Ctrl-C outside `exit_codes`, such as while modules load, leaves a sentence, no traceback."""

    def show(kind, error, traceback) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _say("Interrupted before anything was done.")
        else:
            sys.__excepthook__(kind, error, traceback)

    sys.excepthook = show


def run_program(main: Callable[[], object]) -> None:
    """Runs `main` and leaves with the exit codes of the contract, 0 included."""
    with exit_codes():
        main()
        _leave(EXIT_FINISHED)


def _leave(code: int) -> NoReturn:
    """Ends the program; a rank ends without the interpreter's tidying up, its work being done.

    That sometimes aborts a rank ("terminate called without an active exception"), because torch's
    threads between ranks are still there: 3 of 3 resumed two-node runs, none once the ranks left
    their process group first, and one of some ten of ZeRO-3, where DeepSpeed keeps groups alive.
    """
    torch = sys.modules.get("torch")
    if (
        torch is None
        or not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
    ):
        sys.exit(code)
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say(message: object) -> None:
    rank = os.environ.get("RANK", "0")
    speaker = os.path.basename(sys.argv[0]) + (f" (rank {rank})" if rank != "0" else "")
    print(f"{speaker}: {message}", file=sys.stderr, flush=True)
