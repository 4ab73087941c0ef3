"""Proves that a run leaves the process as it found it, and that warnings and ranks are quiet."""

import logging
import os
import random
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from errors import StoppedOnRequest, UserError
from run_scope_t5 import Quiet, one_run


def record(text: str, *, path: str = "/lib/transformers/x.py", level=logging.WARNING):
    return logging.LogRecord("transformers", level, path, 1, text, (), None)


# ---- what is said -------------------------------------------------------------------------------


def test_a_librarys_warning_is_said_once():
    quiet = Quiet(rank=0)
    assert quiet.filter(record("a")) and not quiet.filter(record("a"))
    assert quiet.filter(record("b")) and quiet.filter(record("a", level=logging.ERROR))
    for level in (logging.INFO, logging.ERROR):
        assert all(quiet.filter(record("c", level=level)) for _ in range(2))


def test_our_own_are_said_each_time():
    from run_scope_t5 import ROOT

    quiet, path = Quiet(rank=0), str(ROOT / "trainer_t5.py")
    assert quiet.filter(record("a", path=path)) and quiet.filter(record("a", path=path))


def test_other_ranks_only_speak_of_errors_and_say_who_they_are():
    quiet, error = Quiet(rank=3), record("50 % is lost", level=logging.ERROR)
    assert not quiet.filter(record("a")) and quiet.filter(error)
    assert Quiet(rank=3).filter(error)  # another handler's
    assert error.getMessage() == "rank 3: 50 % is lost"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_logs_of_a_run_are_quiet_and_those_after_are_not(rank, monkeypatch, capsys):
    monkeypatch.setenv("RANK", str(rank))
    handler = logging.StreamHandler(sys.stderr)
    handler.setStream(sys.stderr)
    logger = logging.getLogger("some_library")
    logger.addHandler(handler)
    logger.propagate = False

    def warn():
        for line in range(3):
            logger.handle(record("often"))
            warnings.warn_explicit("anywhere", UserWarning, "a.py", line)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        one_run(warn)()
        said, num_shown = capsys.readouterr().err, len(shown)
        warn()
    after = capsys.readouterr().err
    logger.removeHandler(handler)
    assert (said.count("often"), num_shown) == (1 - rank, 1 - rank)
    assert (after.count("often"), len(shown) - num_shown) == (3, 3)


# ---- what is put back ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, UserError("no"), RuntimeError("no")])
def test_everything_is_as_before(error, monkeypatch):
    monkeypatch.setenv("T5_KEPT", "1")
    monkeypatch.setenv("T5_CHANGED", "1")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)

    @one_run
    def main(argv):
        os.environ["WANDB_RUN_ID"] = "abc"
        os.environ["T5_CHANGED"] = "2"
        signal.signal(signal.SIGUSR1, lambda *_: None)
        torch.manual_seed(random.randrange(10**9))
        random.seed(1)
        if error:
            raise error
        return {"argv": argv}

    before = dict(os.environ), signal.getsignal(signal.SIGUSR1), torch.rand(1, generator=None)
    state, dice = torch.get_rng_state(), random.getstate()
    if error is None:
        assert main(["--x"]) == {"argv": ["--x"]}
    else:
        with pytest.raises(type(error)):
            main(["--x"])
    assert dict(os.environ) == before[0] and signal.getsignal(signal.SIGUSR1) is before[1]
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == dice


@pytest.mark.parametrize("launched", [False, True])
def test_a_process_group_ends_with_a_run_that_nobody_launched(launched, monkeypatch, tmp_path):
    import torch.distributed as dist

    if launched:
        monkeypatch.setenv("WORLD_SIZE", "1")

    @one_run
    def main():
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/it", rank=0, world_size=1)

    main()
    assert dist.is_initialized() == launched
    if launched:
        dist.destroy_process_group()


def test_precision_is_not_handed_on():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    @one_run
    def main(precision):
        AcceleratorState._reset_state(reset_partial_state=True)  # as the Trainer's arguments do
        return Accelerator(mixed_precision=precision, cpu=True).mixed_precision

    AcceleratorState._reset_state(reset_partial_state=True)
    assert main("bf16") == "bf16"
    one_run(lambda: Accelerator(mixed_precision="no", cpu=True))()  # would refuse another's
    mine = Accelerator(mixed_precision="no", cpu=True)
    assert main("bf16") == "bf16" and mine.mixed_precision == "no"
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (UserError("x"), 2), (StoppedOnRequest("x"), 75), (KeyError("x"), 1)],
)
def test_a_tracked_run_ends_with_its_run(error, code, monkeypatch):
    ended = []
    wandb = SimpleNamespace(run=None, finish=lambda exit_code: ended.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    @one_run
    def main():
        wandb.run = object()
        if error:
            raise error

    if error:
        with pytest.raises(type(error)):
            main()
    else:
        main()
    assert ended == [code]
    one_run(lambda: None)()  # the one of somebody else goes on
    assert ended == [code]
