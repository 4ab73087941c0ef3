"""Proves docs/faults.md row by row: every fault it names is brought about in a real run, and what
happens then is what the table says."""

import json
import math
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import fsspec
import pytest
import torch
import transformers.modeling_utils as modeling_utils
from tiny_run import (
    NUM_STEPS,
    ROOT,
    end_group,
    give_checkpoint,
    history,
    start,
    torchrun,
    wait_for_step,
    weights,
)

import checkpoints_t5
import pre_train_t5
import remote_checkpoints_t5
import resumable_t5
from checkpoints_t5 import BadCheckpoint, numbered_folders, step_of, verify_checkpoint
from errors import EXIT_STOPPED, StoppedOnRequest, UserError

PAGE = (ROOT / "docs" / "faults.md").read_text()
FAULTS: dict[str, object] = {}


def fault(name: str, *marks):
    """Declares what proves one row of the table."""

    def declare(function):
        assert name not in FAULTS
        FAULTS[name] = pytest.param(function, id=name, marks=marks)
        return function

    return declare


class Life:
    """A run that was killed after its checkpoints 4 and 8, and what it takes to start it again."""

    def __init__(self, folder: Path, *, whole: Path, words: list[str], patch, caplog):
        self.folder, self.whole, self.words, self.patch = folder, whole, words, patch
        self.caplog = caplog
        give_checkpoint(whole, folder, step=4)
        shutil.copytree(whole / "checkpoint-8", self.newest)

    @property
    def newest(self) -> Path:
        return self.folder / "checkpoint-8"

    @property
    def log(self) -> str:
        return self.caplog.text

    def go_on(self, *flags: str) -> dict:
        return pre_train_t5.main([*self.words, "--output_dir", str(self.folder), *flags])

    def refuses(self, sentence: str, *flags: str) -> None:
        with pytest.raises(UserError, match=sentence):
            self.go_on(*flags)

    def ends_as_if_nothing_had_happened(self, *flags: str) -> None:
        self.go_on(*flags)
        assert weights(self.folder) == weights(self.whole)
        assert history(self.folder) == history(self.whole)

    def goes_on_from(self, step: int, *flags: str) -> None:
        self.ends_as_if_nothing_had_happened(*flags)
        assert f"checkpoint-{step}." in re.search("Resuming from .*", self.log).group()

    def at_step(self, step: int, action) -> None:
        """Calls `action(trainer, inputs)` before the computation of a step."""
        original = resumable_t5.ResumableTrainer.training_step

        def training_step(trainer, model, inputs, num_items_in_batch=None):
            if trainer.state.global_step == step - 1:
                action(trainer, inputs)
            return original(trainer, model, inputs, num_items_in_batch)

        self.patch.setattr(resumable_t5.ResumableTrainer, "training_step", training_step)


@pytest.fixture
def life(tmp_path, whole_run, tiny_words, monkeypatch, caplog):
    fsspec.filesystem("memory").store.clear()
    defaults = remote_checkpoints_t5.RemoteCheckpoints.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sleep", lambda seconds: None)
    return Life(
        tmp_path / "out", whole=whole_run, words=tiny_words, patch=monkeypatch, caplog=caplog
    )


# ---- a checkpoint that is not as it was ---------------------------------------------------------


def each_file(life, damage) -> None:
    names = sorted(p.name for p in life.newest.iterdir() if p.name != "manifest.json")
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(names)
    for name in names:
        shutil.rmtree(life.newest)
        shutil.copytree(life.whole / "checkpoint-8", life.newest)
        damage(life.newest / name)
        found, skipped = checkpoints_t5.newest_valid_checkpoint(life.folder)
        assert step_of(found.name) == 4 and name in skipped[life.newest]
    life.goes_on_from(4)
    assert "Passed over" in life.log


def flip(path: Path, *, position: int = 10) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@fault("a file is missing")
def _(life):
    each_file(life, lambda path: path.unlink())


@fault("a file is cut short")
def _(life):
    each_file(life, lambda path: path.write_bytes(path.read_bytes()[:-1]))


@fault("a file is empty")
def _(life):
    each_file(life, lambda path: path.write_bytes(b""))


@fault("one bit of a file is flipped")
def _(life):
    each_file(life, flip)


@fault("the manifest is missing")
def _(life):
    (life.newest / "manifest.json").unlink()
    found, skipped = checkpoints_t5.newest_valid_checkpoint(life.folder)
    assert step_of(found.name) == 4 and "has no manifest.json" in skipped[life.newest]
    life.goes_on_from(4)


@fault("the manifest is cut short")
def _(life):
    path = life.newest / "manifest.json"
    path.write_text(path.read_text()[:-20])
    life.goes_on_from(4)


@fault("one digit of the manifest is changed")
def _(life):
    path = life.newest / "manifest.json"
    path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 2'))
    life.goes_on_from(4)


@fault("a file was added")
def _(life):
    (life.newest / "pytorch_model.bin").touch()
    life.goes_on_from(4)


@fault("a file is a symbolic link")
def _(life):
    shutil.move(life.newest / "optimizer.pt", life.folder / "elsewhere")
    (life.newest / "optimizer.pt").symlink_to(life.folder / "elsewhere")
    life.goes_on_from(4)


@fault("the folder is a symbolic link")
def _(life):
    (life.folder / "checkpoint-16").symlink_to(life.whole / "checkpoint-16")
    life.goes_on_from(8)


@fault("the folder was renamed to a later step")
def _(life):
    os.replace(life.folder / "checkpoint-4", life.folder / "checkpoint-400")
    life.goes_on_from(8)


@fault("all checkpoints are damaged")
def _(life):
    for folder in numbered_folders(life.folder):
        flip(folder / "model.safetensors")
    life.ends_as_if_nothing_had_happened()
    assert "Resuming" not in life.log


@fault("only the best model's checkpoint is gone")
def _(life):
    best = json.loads((life.newest / "trainer_state.json").read_text())["best_global_step"]
    assert best is None  # pre-training keeps the last model; the flag makes it keep the best
    flags = ["--save_steps", "3", "--eval_steps", "3", "--load_best_model_at_end"]
    shutil.rmtree(life.folder)
    life.go_on(*flags, "--save_total_limit", "2")
    kept = [step_of(path.name) for path in numbered_folders(life.folder)]
    state = json.loads((life.folder / f"checkpoint-{NUM_STEPS}/trainer_state.json").read_text())
    assert state["best_global_step"] in kept and len(kept) <= 2
    shutil.rmtree(life.folder / f"checkpoint-{state['best_global_step']}")
    life.go_on(*flags)


# ---- a process that is killed -------------------------------------------------------------------


def killed_at(life, target, name: str, *, call: int = 1):
    """Stands in for kill -9: nothing after this moment is done, no handler runs."""
    original, calls = getattr(target, name), []

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    with life.patch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, name, kill)
        life.go_on()


@fault("killed while the files of a checkpoint are written")
def _(life):
    killed_at(life, resumable_t5.ResumableTrainer, "_save_rng_state")
    assert (life.folder / ".checkpoint-12.saving").is_dir()
    life.ends_as_if_nothing_had_happened()
    assert not list(life.folder.glob(".checkpoint-*"))


@fault("killed before the manifest is written")
def _(life):
    killed_at(life, checkpoints_t5, "make_manifest")
    life.goes_on_from(8)


@fault("killed between the manifest and the renaming")
def _(life):
    killed_at(life, checkpoints_t5, "move_into_place")
    life.goes_on_from(8)


@fault("killed between the renaming and the removal of older ones")
def _(life):
    killed_at(life, resumable_t5, "rotate")
    assert verify_checkpoint(life.folder / "checkpoint-12")
    life.ends_as_if_nothing_had_happened()


@fault("killed amid the removal of an old checkpoint")
def _(life):
    old = life.folder / "checkpoint-4"
    (old / "manifest.json").unlink()
    (old / "optimizer.pt").unlink()
    life.goes_on_from(8)
    assert not old.exists()


@fault("killed after the last step, before the end")
def _(life):
    killed_at(life, pre_train_t5.T5Trainer, "_finalize_training")
    life.ends_as_if_nothing_had_happened()


@fault("killed while the final model is written")
def _(life):
    """Half of its weights are there; the model of an earlier run stays until all of them are."""
    names = ("config.json", "model.safetensors")
    for name in names:
        shutil.copy(life.folder / "checkpoint-4" / name, life.folder)
    earlier = [(life.folder / name).read_bytes() for name in names]
    original = modeling_utils.safe_save_file

    class Killed(BaseException):
        pass

    def kill(tensors, path, **kwargs):
        original(tensors, path, **kwargs)
        if "checkpoint-" not in str(path):
            os.truncate(path, os.path.getsize(path) // 2)
            raise Killed

    with life.patch.context() as patch, pytest.raises(Killed):
        patch.setattr(modeling_utils, "safe_save_file", kill)
        life.go_on()
    assert [(life.folder / name).read_bytes() for name in names] == earlier
    life.ends_as_if_nothing_had_happened()
    assert not (life.folder / checkpoints_t5.MODEL_STAGING).exists()
    assert (life.folder / "tokenizer.json").exists()


# ---- disk and folder ----------------------------------------------------------------------------


def fails_to_write(life, times: int, error: OSError) -> list:
    original, calls = resumable_t5.seal, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) <= times:
            raise error
        return original(*args, **kwargs)

    life.patch.setattr(resumable_t5, "seal", full)
    return calls


@fault("the disk is full for a while")
def _(life):
    fails_to_write(life, 2, OSError(28, "No space left on device"))
    life.ends_as_if_nothing_had_happened()
    assert life.log.count("CHECKPOINT NOT SAVED") == 2 and "1 of 3" in life.log
    left = {step_of(path.name) for path in numbered_folders(life.folder)}
    assert left == {4, 8, NUM_STEPS} and not list(life.folder.glob(".checkpoint-*"))


@fault("the disk stays full")
def _(life):
    fails_to_write(life, 99, OSError(28, "No space left on device"))
    life.refuses(r"2 checkpoints in a row.*No space.*checkpoint-8", "--max_failed_saves", "2")
    assert verify_checkpoint(life.newest)


def no_mount() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small file system needs root on Linux"
    return None


@fault("a small disk runs full", pytest.mark.skipif(no_mount() is not None, reason=str(no_mount())))
def _(life):
    """A real file system with room for all, until others leave room for half a checkpoint."""
    size = sum(path.stat().st_size for path in life.newest.iterdir())
    disk = life.folder.parent / "disk"
    disk.mkdir()
    command = f"mount -t tmpfs -o size={8 * size} none {disk} 2>/dev/null"
    if os.system(command) != 0:
        pytest.skip("mounting is not allowed here")
    try:
        shutil.copytree(life.folder, disk / "out")
        kept, life.folder = life.folder, disk / "out"

        def fill(trainer, inputs):
            rest = shutil.disk_usage(disk).free - size // 2
            (disk / "of_others").write_bytes(bytes(rest))

        life.at_step(9, fill)
        life.refuses("3 checkpoints in a row could not be written")
        assert verify_checkpoint(life.newest)
        assert life.log.count("CHECKPOINT NOT SAVED") == 2
        life.patch.undo()
        life.folder = kept
        life.ends_as_if_nothing_had_happened()
    finally:
        os.system(f"umount {disk}")


@fault("the permission to write is lost")
def _(life):
    fails_to_write(life, 1, PermissionError(13, "Permission denied"))
    life.ends_as_if_nothing_had_happened()
    assert "PermissionError" in life.log


@fault("the folder cannot be written from the start")
def _(life):
    life.refuses("cannot be written", "--output_dir", "/proc/nowhere")


@fault("two runs in one folder")
def _(life):
    import subprocess

    program = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); import checkpoints_t5\n"
        "with checkpoints_t5.only_run_in(pathlib.Path(sys.argv[2])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(life.folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    original = resumable_t5.only_run_in
    life.patch.setattr(resumable_t5, "only_run_in", lambda f: original(f, patience_seconds=0))
    try:
        other.stdout.readline()
        life.refuses("in use by another run")
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    life.ends_as_if_nothing_had_happened()


@fault("the folder has moved to another place")
def _(life):
    moved = life.folder.with_name("moved")
    os.replace(life.folder, moved)
    life.folder = moved
    life.goes_on_from(8)


@fault("the clock jumps")
def _(life):
    os.utime(life.newest, (0, 0))
    os.utime(life.folder / "checkpoint-4", (4e9, 4e9))
    life.at_step(10, lambda trainer, inputs: life.patch.setattr(time, "time", lambda: 4e9))
    life.goes_on_from(8, "--stop_after_hours", "1000")


# ---- another run than before --------------------------------------------------------------------


@fault("other settings")
def _(life):
    life.refuses("learning_rate was 0.01 and is 0.1", "--learning_rate", "0.1")


@fault("another number of examples per step")
def _(life):
    life.refuses("4 examples per step, and this run has 8", "--gradient_accumulation_steps", "2")


@fault("an older checkpoint is asked for by its path")
def _(life):
    life.ends_as_if_nothing_had_happened(
        "--resume_from_checkpoint", str(life.folder / "checkpoint-4")
    )
    assert (life.folder / "superseded-8").is_dir()


@fault("a damaged checkpoint is asked for by its path")
def _(life):
    flip(life.newest / "optimizer.pt")
    life.refuses("wrong checksum", "--resume_from_checkpoint", str(life.newest))


@fault("the run is to start over")
def _(life):
    life.ends_as_if_nothing_had_happened("--resume_from_checkpoint", "none")
    assert (life.folder / "superseded-8").is_dir()


def as_the_library_leaves_it(folder: Path) -> None:
    for name in ("manifest.json", "run.yaml", "progress_0.json"):
        (folder / name).unlink()


@fault("a checkpoint of the plain Trainer lies there")
def _(life):
    as_the_library_leaves_it(life.newest)
    life.goes_on_from(4)
    assert "--resume_from_checkpoint PATH takes it" in life.log


@fault("a checkpoint of the plain Trainer is asked for by its path")
def _(life):
    as_the_library_leaves_it(life.newest)
    life.go_on("--resume_from_checkpoint", str(life.newest))
    assert weights(life.folder) == weights(life.whole)


@fault("a checkpoint that would run code")
def _(life):
    class Evil:
        def __reduce__(self):
            return os.system, ("echo pwned",)

    as_the_library_leaves_it(life.newest)
    torch.save({"state": Evil()}, life.newest / "optimizer.pt")
    life.refuses("would run (posix|nt).system", "--resume_from_checkpoint", str(life.newest))


@fault("a checkpoint with a pickled model")
def _(life):
    as_the_library_leaves_it(life.newest)
    (life.newest / "pytorch_model.bin").touch()
    life.refuses("holds pickled code", "--resume_from_checkpoint", str(life.newest))


# ---- the remote ---------------------------------------------------------------------------------

REMOTE = ["--remote_checkpoint_dir", "memory://runs/life"]


def copied(life, *steps: int) -> remote_checkpoints_t5.RemoteCheckpoints:
    remote = remote_checkpoints_t5.RemoteCheckpoints(REMOTE[1], sleep=lambda seconds: None)
    for step in steps:
        remote.upload(life.whole / f"checkpoint-{step}", step=step)
    return remote


@fault("the machine is gone with its disk")
def _(life):
    shutil.rmtree(life.folder)
    copied(life, 12)
    life.goes_on_from(12, *REMOTE)


@fault("the remote is newer than the disk")
def _(life):
    copied(life, 8, 12)
    life.goes_on_from(12, *REMOTE)


@fault("the remote is older than the disk")
def _(life):
    remote = copied(life, 4)
    life.goes_on_from(8, *REMOTE)
    assert remote.steps()[0] == NUM_STEPS


@fault("the newest remote checkpoint is damaged")
def _(life):
    remote = copied(life, 8, 12)
    remote.fs.pipe_file(f"{remote.root}/checkpoint-12/optimizer.pt", b"half")
    shutil.rmtree(life.folder)
    life.goes_on_from(8, *REMOTE)
    assert "Passed over checkpoint-12" in life.log


@fault("an upload was cut off by the end of the machine")
def _(life):
    remote = copied(life, 8, 12)
    remote.fs.rm_file(f"{remote.root}/checkpoint-12/manifest.json")
    shutil.rmtree(life.folder)
    life.goes_on_from(8, *REMOTE)
    assert remote.fs.exists(f"{remote.root}/checkpoint-{NUM_STEPS}/manifest.json")
    assert remote.steps() == [NUM_STEPS, 16] and not remote.fs.exists(
        f"{remote.root}/checkpoint-12"
    )


def unreachable(life, name: str) -> None:
    def dead(self, *args, **kwargs):
        raise ConnectionRefusedError("no route to host")

    life.patch.setattr(type(fsspec.filesystem("memory")), name, dead)


@fault("the remote cannot be reached at the start")
def _(life):
    unreachable(life, "ls")
    life.goes_on_from(8, *REMOTE)
    assert "Going on without the remote checkpoints" in life.log


@fault("the remote cannot be reached and the disk is empty")
def _(life):
    unreachable(life, "ls")
    shutil.rmtree(life.folder)
    life.refuses("cannot be asked for checkpoints", *REMOTE)


@fault("the remote goes away during training")
def _(life):
    unreachable(life, "put_file")
    life.goes_on_from(8, *REMOTE)
    assert "NOT copied" in life.log and "have not" not in life.log


@fault("the line is cut amid an upload")
def _(life):
    kind = type(fsspec.filesystem("memory"))
    put, cuts = kind.put_file, []

    def cut(self, source, target, **kwargs):
        if target.endswith("optimizer.pt") and len(cuts) < 3:
            cuts.append(target)
            self.pipe_file(target, b"half")
            raise ConnectionResetError("reset by peer")
        return put(self, source, target, **kwargs)

    life.patch.setattr(kind, "put_file", cut)
    life.goes_on_from(8, *REMOTE)
    assert len(cuts) == 3 and "reset by peer" in life.log
    life.patch.setattr(kind, "put_file", put)
    target = life.folder.with_name("elsewhere")
    target.mkdir()
    assert copied(life).download(NUM_STEPS, target)


@fault("the remote holds another run")
def _(life):
    remote = copied(life)
    other = life.folder.with_name("other")
    pre_train_t5.main(
        [*life.words, "--output_dir", str(other), *REMOTE, "--max_steps", "4", "--seed", "1"]
    )
    assert remote.steps() == [4]
    life.refuses("holds checkpoints of another run", *REMOTE)


@fault("starting over with a remote that has more")
def _(life):
    copied(life, 12)
    life.refuses("another run|later than where", *REMOTE, "--resume_from_checkpoint", "none")


@fault("a remote manifest leads out of its folder")
def _(life):
    remote = copied(life, 12)
    manifest = json.loads((life.whole / "checkpoint-12" / "manifest.json").read_text())
    del manifest["digest"]
    manifest["files"]["../../escaped"] = manifest["files"]["optimizer.pt"]
    manifest["digest"] = checkpoints_t5._digest(manifest)
    path = f"{remote.root}/checkpoint-12/manifest.json"
    remote.fs.pipe_file(path, json.dumps(manifest).encode())
    life.goes_on_from(8, *REMOTE)
    assert "names a file outside itself" in life.log


# ---- numbers ------------------------------------------------------------------------------------


def spoil(trainer, inputs) -> None:
    trainer.model.shared.weight.data[5] = float("nan")


@fault("the loss is not finite")
def _(life):
    original, seen = pre_train_t5.T5Trainer.compute_loss, []

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = original(self, model, inputs, *args, **kwargs)
        if self.state.global_step < 12 or not model.training:
            return loss
        seen.extend(inputs["example_index"].tolist())
        seen.append(self.train_dataset)
        return loss * float("inf")

    life.patch.setattr(pre_train_t5.T5Trainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match="Step 13: the loss is inf .*--replay") as caught:
        life.go_on()
    path = Path(re.search(r"--replay (\S+);", str(caught.value)).group(1))
    bad = json.loads(path.read_text())
    data = seen.pop()
    (keys,) = bad["keys"]
    assert bad["step"] == 13 and bad["epoch"] == 1 and bad["loss"] is None
    assert data.__getitems__(keys).examples.tolist() == seen and len(seen) == 4


@fault("a gradient is not finite")
def _(life):
    def spoil_gradient(trainer, inputs):
        trainer.model.lm_head.weight.register_hook(lambda grad: grad * math.nan)

    life.at_step(10, spoil_gradient)
    life.refuses("Step 10: the gradient is nan")
    assert verify_checkpoint(life.newest)
    left = torch.load(life.newest / "optimizer.pt", weights_only=True)
    assert left["state"]


@fault("a bad batch is looked at again")
def _(life, capsys):
    life.at_step(10, spoil)
    with pytest.raises(UserError) as caught:
        life.go_on()
    path = re.search(r"--replay (\S+);", str(caught.value)).group(1)
    life.go_on("--replay", path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("example ")]
    assert len(lines) == 4 and "first not finite in " in lines[-1]


@fault("loss spikes are to be left out")
def _(life):
    original = pre_train_t5.T5Trainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = original(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 12 and model.training else loss

    life.patch.setattr(pre_train_t5.T5Trainer, "compute_loss", compute_loss)
    metrics = life.go_on("--skip_loss_spikes", "3", "--resume_from_checkpoint", "none")
    assert metrics["train_skipped_steps"] == 1 and math.isfinite(metrics["eval_loss"])
    assert "Step 13 is left out" in life.log


# ---- stops and hangs ----------------------------------------------------------------------------


@fault("SIGTERM, SIGUSR1 or Ctrl-C")
def _(life):
    for step, name in ((9, "SIGTERM"), (11, "SIGUSR1"), (14, "SIGINT")):
        number = getattr(signal, name)
        with life.patch.context() as patch, pytest.raises(StoppedOnRequest, match=name):
            inner = Life.__new__(Life)
            inner.patch = patch
            inner.at_step(step, lambda trainer, inputs, n=number: os.kill(os.getpid(), n))
            life.go_on()
        assert verify_checkpoint(life.folder / f"checkpoint-{step}")
    life.ends_as_if_nothing_had_happened()


@fault("a signal while a checkpoint is written")
def _(life):
    original = resumable_t5.seal

    def seal(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    with life.patch.context() as patch, pytest.raises(StoppedOnRequest, match="checkpoint-1"):
        patch.setattr(resumable_t5, "seal", seal)
        life.go_on()
    life.ends_as_if_nothing_had_happened()


@fault("the time is up")
def _(life):
    with pytest.raises(StoppedOnRequest, match="--stop_after_hours.*checkpoint-9 is complete"):
        life.go_on("--stop_after_hours", "0.00001")
    life.ends_as_if_nothing_had_happened()


@fault("the launcher is gone")
def _(life):
    import stop_requests_t5

    def vanish(trainer, inputs):
        trainer.stop_requests.looked = -math.inf
        life.patch.setattr(stop_requests_t5, "_launcher_ids", lambda: (1,))

    with life.patch.context() as patch, pytest.raises(StoppedOnRequest, match="launcher is gone"):
        life.patch, kept = patch, life.patch
        life.at_step(10, vanish)
        life.go_on()
    life.patch = kept
    life.ends_as_if_nothing_had_happened()


def two_ranks(life, *flags: str, step: int):
    log = life.folder.with_suffix(".log")
    words = [*life.words, "--per_device_train_batch_size", "2", "--logging_steps", "1"]
    words += ["--output_dir", str(life.folder), "--max_steps", "100000", "--save_steps", "90000"]
    words += ["--eval_steps", "90000", "--resume_from_checkpoint", "none", *flags]
    process = start(torchrun(str(ROOT / "pre_train_t5.py"), *words), log)
    wait_for_step(log, process, step=step)
    return process, log


def rank_process(launcher, rank: int) -> int:
    import psutil

    for child in psutil.Process(launcher.pid).children():
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError(f"no rank {rank}")


@fault("a rank stalls", pytest.mark.cluster)
def _(life):
    process, log = two_ranks(life, "--hang_timeout_minutes", "0.1", step=3)
    try:
        os.kill(rank_process(process, 1), signal.SIGSTOP)
        assert process.wait(timeout=60) not in (0, EXIT_STOPPED)
    finally:
        end_group(process)
    assert "rank 1 no longer reports" in log.read_text()


@fault("a rank dies", pytest.mark.cluster)
def _(life):
    process, log = two_ranks(life, step=3)
    try:
        os.kill(rank_process(process, 1), signal.SIGKILL)
        assert process.wait(timeout=60) not in (0, EXIT_STOPPED)
    finally:
        end_group(process)
    assert "rank: 1" in log.read_text() or "local_rank: 1" in log.read_text()


# ---- the table ----------------------------------------------------------------------------------


def rows() -> list[str]:
    return re.findall(r"^\| ([^|]+?) \|", PAGE, flags=re.MULTILINE)


def test_the_table_names_what_is_tested_here_and_nothing_else():
    named = [row for row in rows() if row not in ("fault", "---")]
    assert len(named) == len(set(named)) >= 30
    assert set(named) == set(FAULTS)


@pytest.mark.parametrize("prove", list(FAULTS.values()))
def test_fault(life, prove, capsys):
    if "capsys" in prove.__code__.co_varnames[: prove.__code__.co_argcount]:
        prove(life, capsys)
    else:
        prove(life)


def test_the_helper_can_fail(life):
    flip(life.newest / "optimizer.pt", position=0)
    with pytest.raises(BadCheckpoint):
        verify_checkpoint(life.newest)
