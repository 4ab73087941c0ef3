"""A Trainer that can be killed anywhere: it saves whole checkpoints, stops when asked, and goes on
as if nothing had happened.

What the library does otherwise stands at each method. Everything that makes a step differ from the
one of an uninterrupted run is kept: besides the library's files, `progress_{rank}.json` holds the
loss summed since the last log line, the time spent, and the watch over loss spikes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy

from checkpoints_t5 import (
    MODEL_STAGING,
    BadCheckpoint,
    checkpoint_folder,
    is_library_checkpoint,
    move_files,
    newest_valid_checkpoint,
    only_run_in,
    prepare_staging,
    read_manifest,
    refuse_pickled_code,
    remove,
    remove_unfinished,
    rotate,
    seal,
    set_aside_newer,
    staging_folder,
    step_of,
    verify_checkpoint,
    whole_checkpoints,
)
from errors import StoppedOnRequest, UserError
from fsdp_t5 import load_optimizer, load_weights, save_optimizer
from loss_watch_t5 import BadBatch, LossWatch, replay
from read_ahead_t5 import fetch
from remote_checkpoints_t5 import BackgroundCopies, RemoteCheckpoints
from run_files_t5 import require_same_run, write_run_yaml
from stop_requests_t5 import REASONS, StopRequests, leave_signals_to_parent
from watchdog_t5 import Watchdog

logger = logging.getLogger(__name__)

# What a full disk or a lost permission looks like from inside the libraries that write.
SAVE_ERRORS = (OSError, RuntimeError, SafetensorError)  # and the tokenizers' plain Exception
# A checkpoint may grow a little from one step to the next: the state is JSON.
ROOM_FACTOR = 1.02
# DeepSpeed opens its own files with the full unpickler; these are the classes it needs.
DEEPSPEED_CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


class ResumableTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer with atomic checkpoints, exact resume, stops on request and remote copies."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.run_folder = Path(self.args.output_dir)
        self.run_id = uuid.uuid4().hex
        self.stop_requests = StopRequests(stop_after_hours=self.args.stop_after_hours)
        self.watchdog = Watchdog(
            limit_seconds=(self.args.hang_timeout_minutes or 0) * 60 or None,
            rank=self.args.process_index,
            world_size=self.args.world_size,
        )
        self.loss_watch = LossWatch()
        self.copies: BackgroundCopies | None = None
        self.remote: RemoteCheckpoints | None = None
        self.remote_steps: list[int] = []
        self.resumed_from: Path | None = None
        self.seconds_before = 0.0  # spent by this run in earlier processes
        self.train_began = time.monotonic()
        self.last_saved_step = -1
        self.broken: list[Path] = []
        self.save_seconds = self.step_seconds = 0.0
        self.step_began = time.monotonic()
        self.num_failed_saves = 0
        self.checkpoint_bytes = 0
        self.was_over = False
        self.save_is_put_off = self.at_epoch_end = False
        self.stop_reasons: set[str] = set()
        self.step_losses: list[torch.Tensor] = []
        self.loss_before_step = torch.zeros(())
        self.epoch_now = self.first_step_of_epoch = 0
        self.add_callback(_Hooks(self))

    # ---- ranks in agreement ----

    def _sum_over_ranks(self, *values: float) -> list[float]:
        if self.args.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        dist.all_reduce(total)
        return total.tolist()

    def _any_rank(self, flag: bool) -> bool:
        return self._sum_over_ranks(float(flag))[0] > 0

    def _from_main(self, function: Callable[[], object]) -> object:
        """What `function` returns on rank 0, on every rank; so with its UserError."""
        outcome: list = [None, None]
        if self.is_world_process_zero():
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = str(error)
        if self.args.world_size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise UserError(outcome[1])
        return outcome[0]

    # ---- a run from its start to its end ----

    @contextlib.contextmanager
    def one_run(self) -> Iterator[Path | None]:
        """The checkpoint to go on from; inside, the folder is locked and requests are heard.

        At the end it waits, within limits, for the remote copies that are on their way.
        """
        with contextlib.ExitStack() as stack:
            self._from_main(lambda: stack.enter_context(only_run_in(self.run_folder)) and None)
            stack.enter_context(self.stop_requests)
            chosen = self._from_main(self._choose_checkpoint) if self.args.do_train else None
            checkpoint = Path(chosen) if chosen else None
            if checkpoint is not None:
                self._require_resumable(checkpoint)
            if self.is_world_process_zero():
                write_run_yaml(self.run_folder, self.args.given)
                stack.callback(self._finish_copies)
            yield checkpoint

    def _choose_checkpoint(self) -> str | None:
        """On rank 0: cleans up, looks here and at the remote, and says what is passed over."""
        asked = self.args.resume_from_checkpoint
        remove_unfinished(self.run_folder)
        if self.args.remote_checkpoint_dir:
            self.remote = RemoteCheckpoints(self.args.remote_url)
            self.remote_steps = self._ask_remote()
        if asked is None:
            found = None
        elif asked == "auto":
            found = self._newest_anywhere()
        else:
            found = self._as_asked(Path(asked))
        self._require_fitting_remote(found)
        step = step_of(found.name) if found else 0
        for moved in set_aside_newer(self.run_folder, step=step or 0):
            logger.warning("A later checkpoint is set aside as %s.", moved)
        if found is not None:
            logger.warning("Resuming from %s.", found)
        if self.remote is not None:
            self.copies = BackgroundCopies(
                self.remote, output_dir=self.run_folder, keep_last=self.args.remote_keep_last
            )
        return found and str(found)

    def _newest_anywhere(self) -> Path | None:
        found, skipped = newest_valid_checkpoint(self.run_folder)
        for folder, reason in skipped.items():
            if is_library_checkpoint(folder):
                reason += " (it is the plain Trainer's: --resume_from_checkpoint PATH takes it)"
            logger.warning("Passed over %s: it %s.", folder, reason)
        self.broken = [folder for folder in skipped if not is_library_checkpoint(folder)]
        if self.remote is not None:
            found = self._newer_remote(found) or found
        if found is not None:
            require_same_run(found, self.args.given)
        return found

    def _ask_remote(self) -> list[int]:
        """Steps of the remote checkpoints whose manifest is whole, newest first."""
        try:
            self.remote.prepare()
            return [step for step in self.remote.steps() if self._is_readable(step)]
        except OSError as error:
            if not whole_checkpoints(self.run_folder):
                raise UserError(
                    f"--remote_checkpoint_dir cannot be asked for checkpoints ({error}), and "
                    f"{self.run_folder} has none. Check the address and the network, or start "
                    "anew without it."
                ) from error
            logger.warning("Going on without the remote checkpoints: %s.", error)
            return []

    def _is_readable(self, step: int) -> bool:
        try:
            return bool(self.remote.manifest(step))
        except BadCheckpoint as error:
            logger.warning("Passed over checkpoint-%d of %s: it %s.", step, self.remote.name, error)
            return False

    def _newer_remote(self, local: Path | None) -> Path | None:
        """A copy of the newest valid remote checkpoint, where it is newer than the local one."""
        local_step = step_of(local.name) if local else -1
        for step in [step for step in self.remote_steps if step > local_step]:
            try:
                logger.warning("Downloading checkpoint-%d from %s.", step, self.remote.name)
                found = self.remote.download(step, self.run_folder)
                self._download_best(found, self.remote_steps)
                return found
            except BadCheckpoint as error:
                self.remote_steps.remove(step)
                logger.warning(
                    "Passed over checkpoint-%d of %s: it %s.", step, self.remote.name, error
                )
        return None

    def _download_best(self, found: Path, steps: list[int]) -> None:
        """Also the best model's checkpoint, which the end of the run may load."""
        best = json.loads((found / "trainer_state.json").read_text())["best_global_step"]
        if best in steps and checkpoint_folder(self.run_folder, best) not in whole_checkpoints(
            self.run_folder
        ):
            with contextlib.suppress(BadCheckpoint):
                self.remote.download(best, self.run_folder)

    def _as_asked(self, folder: Path) -> Path:
        """The folder of --resume_from_checkpoint PATH."""
        if step_of(folder.name) is None or not folder.is_dir():
            raise UserError(
                f"--resume_from_checkpoint {folder}: no checkpoint there. Give a checkpoint-N "
                "folder, auto, or none."
            )
        if is_library_checkpoint(folder):
            logger.warning("%s has no manifest: its files cannot be checked.", folder)
            return folder
        try:
            verify_checkpoint(folder)
        except (BadCheckpoint, OSError) as error:
            raise UserError(
                f"--resume_from_checkpoint {folder}: no complete checkpoint there, it {error}. "
                "Give another, or auto for the newest valid one."
            ) from error
        return folder

    def _require_fitting_remote(self, found: Path | None) -> None:
        """Refuses to mix two runs, or two pasts of one, at the same address."""
        with contextlib.suppress(BadCheckpoint):
            self.run_id = read_manifest(found)["run"] if found else self.run_id
        steps = self.remote_steps
        if steps and self.remote.manifest(steps[0])["run"] != self.run_id:
            raise UserError(
                f"--remote_checkpoint_dir {self.remote.name} holds checkpoints of another run. "
                "Give each run an address of its own, or --resume_from_checkpoint auto to go on "
                "with that one from an empty --output_dir."
            )
        if steps and steps[0] > (step_of(found.name) if found else 0):
            raise UserError(
                f"--remote_checkpoint_dir {self.remote.name} holds checkpoint-{steps[0]}, later "
                "than where this run starts. Give another address, or --resume_from_checkpoint "
                "auto to go on from there."
            )

    def _require_resumable(self, folder: Path) -> None:
        """Refuses a checkpoint that some rank cannot see, is unsafe, or of another layout."""
        if self._any_rank(not (folder / "trainer_state.json").is_file()):
            raise UserError(
                f"Not every node sees {folder}. Give an --output_dir on a file system that all "
                "nodes share."
            )
        self._from_main(lambda: refuse_pickled_code(folder, allowed=DEEPSPEED_CLASSES))
        try:
            manifest = read_manifest(folder)
        except BadCheckpoint:
            return
        engine, ranks = manifest["engine"], manifest["world_size"]
        same_ranks = ranks == self.args.world_size or engine == "plain"
        if engine != self._engine() or not same_ranks:
            raise UserError(
                f"{folder} was written by {ranks} ranks under {engine}, and this run has "
                f"{self.args.world_size} under {self._engine()}. Start it as before; only plain "
                "runs can go on with another number of ranks."
            )
        if manifest["examples_per_step"] != self._examples_per_step():
            raise UserError(
                f"{folder} was written with {manifest['examples_per_step']} examples per step, and "
                f"this run has {self._examples_per_step()}: ranks x --per_device_train_batch_size "
                "x --gradient_accumulation_steps must give the same."
            )
        if ranks != self.args.world_size and self.is_world_process_zero():
            logger.warning(
                "Going on with %d ranks instead of %d: the data order and masks stay; dropout, if "
                "any, draws other numbers.",
                self.args.world_size,
                ranks,
            )

    def _engine(self) -> str:
        if self.is_deepspeed_enabled:
            stage = self.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
            return f"deepspeed-{stage.get('stage', 0)}"
        return "fsdp" if self.is_fsdp_enabled else "plain"

    def _examples_per_step(self) -> int:
        args = self.args
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _finish_copies(self) -> None:
        if self.copies is None:
            return
        if not self.copies.finish(seconds=self.args.remote_wait_minutes * 60):
            logger.warning(
                "Not all checkpoints have arrived at %s. They are complete in %s; the same command "
                "copies the next one.",
                self.remote.name,
                self.run_folder,
            )

    # ---- training ----

    def train(self, resume_from_checkpoint=None, **kwargs):
        """The library's training, from exactly where `resume_from_checkpoint` was written."""
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._continue_tracking()
        with self.watchdog:
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except StoppedOnRequest:
                self.accelerator.end_training()
                raise

    def get_train_dataloader(self):
        return _shield_workers(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset=None):
        return _shield_workers(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        return _shield_workers(super().get_test_dataloader(test_dataset))

    def _run_epoch(self, **kwargs):
        """The library's, but not at all after the last step, and in the order of the right epoch.

        With two ranks the library leaves a sampler whose first batches are skipped in epoch 0, and
        it trains one step more when the checkpoint of the last step is resumed.
        """
        if self.was_over or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self.epoch_now = kwargs["epoch"]
        self.first_step_of_epoch = self.epoch_now * kwargs["num_update_steps_per_epoch"]
        for sampler in _samplers(kwargs["train_dataloader"]):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.epoch_now)
        self.at_epoch_end = False
        super()._run_epoch(**kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.watchdog.beat(f"computing step {self.state.global_step + 1}")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_losses.append(loss)
        self.watchdog.beat(f"waiting for data or other ranks after step {self.state.global_step}")
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The library's; before the optimizer's step all ranks look at loss, norm and requests."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._look_at_numbers(model, grad_norm)
        return grad_norm

    def _look_at_numbers(self, model, grad_norm) -> None:
        loss = float(sum(self.step_losses))
        self.step_losses.clear()
        norm = 0.0 if grad_norm is None or self.args.fp16 else float(grad_norm)  # fp16 has a scaler
        asked = self.stop_requests.reasons(
            seconds_to_save=1.5 * self.save_seconds + self.step_seconds
        )
        # NaN would spread through the sum by itself; infinities of both signs would not.
        is_bad = not (math.isfinite(loss) and math.isfinite(norm))
        summed, bad, *flags = self._sum_over_ranks(
            0.0 if is_bad else loss, float(is_bad), *(float(name in asked) for name in REASONS)
        )
        self.stop_reasons |= {name for name, flag in zip(REASONS, flags, strict=True) if flag}
        mean_loss = float("nan") if bad else summed / self.args.world_size
        factor = self.args.skip_loss_spikes
        if factor is not None and self.loss_watch.is_spike(mean_loss, factor=factor):
            self.loss_watch.skip()
            self._leave_out_step(self.loss_watch.mean)
            model.zero_grad(set_to_none=True)  # an optimizer leaves parameters without gradient
            if self.is_world_process_zero():
                logger.warning(
                    "Step %d is left out: loss %.4g against a mean of %.4g (%d left out so far).",
                    self.state.global_step + 1,
                    mean_loss,
                    self.loss_watch.mean,
                    self.loss_watch.num_skipped,
                )
        elif bad:
            self._stop_at_bad_numbers(loss, norm)
        else:
            self.loss_watch.keep(mean_loss)

    def _leave_out_step(self, mean_loss: float) -> None:
        """The next log line shows the running mean instead of the loss of this step."""
        self._tr_loss.copy_(self.loss_before_step + mean_loss)

    def _stop_at_bad_numbers(self, loss: float, norm: float) -> None:
        """Keeps the batch, and the weights before its step where they are untouched, and ends."""
        step = self.state.global_step + 1
        folder = self.run_folder / f"bad_batch_{step}"
        if not self.is_deepspeed_enabled and not self.is_fsdp_enabled:
            self.save_model(str(folder), _internal_call=True)
        ranks = gather_object([(self.args.process_index, loss, norm)])
        worst = next(
            (r for r in ranks if not (math.isfinite(r[1]) and math.isfinite(r[2]))), ranks[0]
        )
        path = folder / "bad_batch.json"
        keys = self._keys_of_this_step()
        if self.is_world_process_zero():
            BadBatch(step, self.epoch_now, worst[1], worst[2], keys).write(path)
        what = "loss" if not math.isfinite(worst[1]) else "gradient"
        value = worst[1] if what == "loss" else worst[2]
        raise UserError(
            f"Step {step}: the {what} is {value} (rank {worst[0]}). The examples of this step are "
            f"in {path}; the last checkpoint is untouched. See which example does it with --replay "
            f"{path}; then go on with a lower --learning_rate, with --skip_loss_spikes 3, or with "
            "--bf16 False where precision is short, from --resume_from_checkpoint "
            f"{self._newest_name()}."
        )

    def _keys_of_this_step(self) -> list[list[int]]:
        """The data set's keys of the step that is computed, one list per batch of every rank."""
        levels = _samplers(self.callback_handler.train_dataloader)
        batches = [level for level in levels if hasattr(level, "sampler")]
        per_step = self.args.gradient_accumulation_steps * self.args.world_size
        first = (self.state.global_step - self.first_step_of_epoch) * per_step
        found = []
        for number, keys in enumerate(batches[-1] if batches else []):
            if first <= number < first + per_step:
                found.append([int(key) for key in keys])
        return found

    def _newest_name(self) -> str:
        whole = whole_checkpoints(self.run_folder)
        return str(whole[-1]) if whole else "none"

    def replay(self, path: Path) -> dict[str, float]:
        """Prints what each example of a bad batch does to the weights kept beside it.

        Without those (DeepSpeed) to the newest valid checkpoint's. Without dropout.
        """
        bad = BadBatch.read(path)
        folder = path.parent if (path.parent / "model.safetensors").exists() else None
        folder = folder or newest_valid_checkpoint(self.run_folder)[0]
        if folder is not None and (folder / "model.safetensors").exists():
            state = load_file(folder / "model.safetensors")
            self.model.load_state_dict(state, strict=False)  # tied weights are saved once
        model = self.model.to(self.args.device).eval()
        batches = [
            self._prepare_inputs(self.data_collator(fetch(self.train_dataset, keys)))
            for keys in bad.keys
        ]
        lines = replay(batches, model=model, loss_of=self._replayed_loss)
        if self.is_world_process_zero():
            print(f"Step {bad.step} with the weights of {folder or 'the start'}:")
            print("\n".join(lines), flush=True)
        return {}

    def _replayed_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with self.compute_loss_context_manager():
            return self.compute_loss(self.model, batch)

    # ---- after a step ----

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        """The library's; then the run ends if some rank was asked to.

        Where something is done at the end of an epoch, a save at its last step is put off until
        then: the library goes on behind the epoch's end, and that evaluation would be lost.
        """
        ends_epoch = not self.at_epoch_end and float(self.state.epoch).is_integer()
        by_epoch = IntervalStrategy.EPOCH in (self.args.eval_strategy, self.args.logging_strategy)
        if ends_epoch and by_epoch:
            self.save_is_put_off = self.control.should_save
            self.control.should_save = False
        elif self.at_epoch_end and self.save_is_put_off:
            self.control.should_save = True
            self.save_is_put_off = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.stop_reasons and not (ends_epoch and by_epoch):
            self._stop(kwargs.get("model", args[2] if len(args) > 2 else None))

    def _stop(self, model) -> None:
        step = self.state.global_step
        if self.last_saved_step != step:
            self._save_checkpoint(model, None)
        reasons = " and ".join(REASONS[name] for name in REASONS if name in self.stop_reasons)
        saved = f"checkpoint-{step} is complete"
        if self.last_saved_step != step:
            saved = f"it could not be saved, and the last checkpoint is {self._newest_name()}"
        raise StoppedOnRequest(
            f"Stopped after step {step:,} of {self.state.max_steps:,} on request ({reasons}); "
            f"{saved}. The same command goes on."
        )

    # ---- saving ----

    def _save_checkpoint(self, model, trial) -> None:
        """Writes beside, seals and renames; all ranks agree on whether it went well.

        The library writes in place, and finds the best model's folder and what to rotate by time
        stamps and names that half-written folders have too.
        """
        began = time.monotonic()
        step = self.state.global_step
        if step == self.last_saved_step:
            return
        self.watchdog.beat(f"saving checkpoint-{step}")
        best_before = self.state.best_model_checkpoint
        staging = staging_folder(self.run_folder, step)
        problem = self._attempt(
            lambda: prepare_staging(staging, expected_bytes=self.checkpoint_bytes), on_main=True
        )
        problem = problem or self._attempt(lambda: self._write_parts(staging, step))
        problem = problem or self._attempt(lambda: self._seal(staging, step), on_main=True)
        if problem:
            self.state.best_model_checkpoint = best_before
            self._count_failed_save(problem, staging)
            return
        self.last_saved_step = step
        self.num_failed_saves = 0
        self.save_seconds = max(self.save_seconds, time.monotonic() - began)
        self.watchdog.beat(f"saved checkpoint-{step}")
        if self.is_world_process_zero():
            self._after_save(step)

    def _attempt(self, action: Callable[[], object], *, on_main: bool = False) -> str | None:
        """Runs `action` on every rank or on rank 0; the first rank's reason if any rank failed."""
        problem = None
        if not on_main or self.is_world_process_zero():
            try:
                action()
            except Exception as error:
                if not isinstance(error, SAVE_ERRORS) and type(error) is not Exception:
                    raise
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if self.args.world_size == 1:
            return problem
        return next(filter(None, gather_object([problem])), None)

    def _write_parts(self, staging: Path, step: int) -> None:
        """Every rank's part of a checkpoint; the order of calls is the library's."""
        folder = str(staging)
        if self.hp_search_backend is None:
            self.store_flos()
        self.save_model(folder, _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
            self._save_rng_state(folder)
        progress = json.dumps(self._progress())
        (staging / f"progress_{self.args.process_index}.json").write_text(progress)
        if self.args.should_save:
            self._note_best(step)
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.save_to_json(str(staging / "trainer_state.json"))
            write_run_yaml(staging, self.args.given)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        save_optimizer(self.optimizer.optimizer, Path(output_dir), model=self.model)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _note_best(self, step: int) -> None:
        """Names the best model's folder by its final name, if it is or will be there."""
        best_step = self.state.best_global_step
        if best_step and best_step == step:
            self.state.best_model_checkpoint = str(checkpoint_folder(self.run_folder, step))
        elif best_step:
            best = self._folder_of_best()
            self.state.best_model_checkpoint = best or self.state.best_model_checkpoint

    def _folder_of_best(self) -> str | None:
        """The best model's checkpoint here or beside the one resumed from; paths in a state do not
        count, because folders move."""
        if not self.state.best_global_step:
            return None
        for folder in (self.run_folder, self.resumed_from and self.resumed_from.parent):
            best = folder and checkpoint_folder(folder, self.state.best_global_step)
            if best and best in whole_checkpoints(folder):
                return str(best)
        return None

    def _save(self, output_dir=None, state_dict=None):
        """The library's without its pickle of the arguments: run.yaml has them.

        The final model is written beside and moved, or a kill would leave neither it nor the one
        that was there. Checkpoints are moved as whole folders.
        """
        target = Path(output_dir or self.args.output_dir)
        is_final = target == self.run_folder
        folder = target / MODEL_STAGING if is_final else target
        if is_final and self.args.should_save:
            remove(folder)
        super()._save(str(folder), state_dict=state_dict)
        if self.args.should_save:
            (folder / "training_args.bin").unlink(missing_ok=True)
            if is_final:
                move_files(folder, target)

    def _seal(self, staging: Path, step: int) -> None:
        facts = {
            "step": step,
            "run": self.run_id,
            "world_size": self.args.world_size,
            "engine": self._engine(),
            "examples_per_step": self._examples_per_step(),
        }
        manifest = seal(staging, checkpoint_folder(self.run_folder, step), facts=facts)
        size = sum(file["bytes"] for file in manifest["files"].values())
        self.checkpoint_bytes = int(ROOM_FACTOR * size)

    def _after_save(self, step: int) -> None:
        """On rank 0: rotation, the remote copy, the library's own copy to the Hub."""
        final = checkpoint_folder(self.run_folder, step)
        self.broken = [folder for folder in self.broken if folder != final]
        best = self.state.best_model_checkpoint
        rotate(
            self.run_folder,
            limit=self.args.save_total_limit,
            protected=[Path(best)] if best else [],
            broken=self.broken,
        )
        if self.copies is not None:
            try:
                self.copies.submit(final, best_step=best and step_of(Path(best).name))
            except OSError as error:
                logger.warning(
                    "checkpoint-%d cannot be copied (%s). Training goes on.", step, error
                )
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _count_failed_save(self, problem: str, staging: Path) -> None:
        """A loud warning; after --max_failed_saves in a row the end."""
        self.num_failed_saves += 1
        if self.is_world_process_zero():
            remove(staging)
        newest = self._newest_name()
        if self.num_failed_saves >= self.args.max_failed_saves:
            raise UserError(
                f"{self.num_failed_saves} checkpoints in a row could not be written to "
                f"{self.run_folder} (last: {problem}). Make room or mend the permission there; the "
                f"same command goes on from {newest}. --max_failed_saves says how many may fail."
            )
        if self.is_world_process_zero():
            logger.error(
                "CHECKPOINT NOT SAVED at step %d: %s. Training goes on; the newest complete "
                "checkpoint is %s. Failed in a row: %d of %d (--max_failed_saves).",
                self.state.global_step,
                problem,
                newest,
                self.num_failed_saves,
                self.args.max_failed_saves,
            )

    # ---- going on ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if not self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if not self.is_fsdp_enabled:
            return super()._load_best_model()
        load_weights(self.model, Path(self.state.best_model_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        load_optimizer(self.optimizer.optimizer, Path(checkpoint), model=self.model)
        state = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(state)

    def _progress(self) -> dict[str, object]:
        """What the library forgets between two processes; of this rank."""
        return {
            "loss_since_log": self._tr_loss.item(),
            "loss_before_log": self._total_loss_scalar,
            "step_last_logged": self._globalstep_last_logged,
            "seconds": self._seconds_trained(),
            "is_over": self.control.should_training_stop
            and self.state.global_step < self.state.max_steps,
            "loss_watch": self.loss_watch.state(),
            "wandb_run_id": self._wandb_run_id(),
        }

    def _seconds_trained(self) -> float:
        return self.seconds_before + time.monotonic() - self.train_began

    def restore_progress(self) -> None:
        """After the library has set its counters to zero: to what they were at the checkpoint.

        Called when training begins. On another number of ranks each takes the mean of what the
        ranks had summed, because a log line is the mean over ranks.
        """
        self.train_began = time.monotonic()
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        if self.resumed_from is None:
            return
        paths = self.resumed_from.glob("progress_*.json")
        paths = sorted(paths, key=lambda path: int(path.stem.removeprefix("progress_")))
        if paths:
            self._restore([json.loads(path.read_text()) for path in paths])
        self.last_saved_step = self.state.global_step
        self.state.best_model_checkpoint = self._folder_of_best()

    def _restore(self, ranks: list[dict]) -> None:
        """Takes over what `_progress` of each rank has kept."""
        mine = ranks[min(self.args.process_index, len(ranks) - 1)]
        if len(ranks) != self.args.world_size:
            mine["loss_since_log"] = sum(rank["loss_since_log"] for rank in ranks) / len(ranks)
        self._tr_loss = torch.tensor(mine["loss_since_log"], device=self.args.device)
        self._total_loss_scalar = mine["loss_before_log"]
        self._globalstep_last_logged = mine["step_last_logged"]
        self._initial_global_step = 0
        self.seconds_before = mine["seconds"]
        self.was_over = mine["is_over"]
        self.loss_watch = LossWatch(**mine["loss_watch"])

    def _finalize_training(self, trial, num_train_samples, start_time):
        """The library's, with the time of the processes before this one counted in.

        Each rank loads the best model's folder that its own state names, and only rank 0 writes
        folders: the others would be evaluated with the last weights.
        """
        self.watchdog.beat("finishing")
        best = self._from_main(lambda: self.state.best_model_checkpoint)
        self.state.best_model_checkpoint = best
        began = start_time - self.seconds_before
        return super()._finalize_training(trial, num_train_samples, began)

    def _wandb_run_id(self) -> str | None:
        if "wandb" not in self.args.report_to or not self.is_world_process_zero():
            return None
        import wandb

        return wandb.run.id if wandb.run is not None else None

    def _continue_tracking(self) -> None:
        """A resumed W&B run goes on under its id, unless the environment names another."""
        if self.resumed_from is None or "wandb" not in self.args.report_to:
            return
        path = self.resumed_from / "progress_0.json"
        run = json.loads(path.read_text())["wandb_run_id"] if path.exists() else None
        if run and "WANDB_RUN_ID" not in os.environ:
            os.environ["WANDB_RUN_ID"] = run
            os.environ.setdefault("WANDB_RESUME", "allow")


class _Hooks(TrainerCallback):
    """The moments that the library announces to callbacks only."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_progress()

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.step_began = time.monotonic()
        if args.skip_loss_spikes is not None:
            self.trainer.loss_before_step = self.trainer._tr_loss.clone()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = time.monotonic() - self.trainer.step_began
        self.trainer.step_seconds = max(0.9 * self.trainer.step_seconds, seconds)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.at_epoch_end = True

    def on_prediction_step(self, args, state, control, **kwargs):
        self.trainer.watchdog.beat("evaluating")

    def on_evaluate(self, args, state, control, **kwargs):
        self.trainer.watchdog.beat("going on after an evaluation")


def _samplers(dataloader: DataLoader) -> list:
    """The samplers of a data loader, from the outermost wrapper to the one that orders examples."""
    levels = []
    level = getattr(dataloader, "batch_sampler", None) or getattr(dataloader, "sampler", None)
    while level is not None:
        levels.append(level)
        level = getattr(level, "batch_sampler", None) or getattr(level, "sampler", None)
    return levels


class _Shielded:
    """Prepares a data worker, which then leaves signals to the trainer."""

    def __init__(self, prepare: Callable[[int], None] | None):
        self.prepare = prepare

    def __call__(self, worker: int) -> None:
        leave_signals_to_parent()
        if self.prepare is not None:
            self.prepare(worker)


def _shield_workers(dataloader: DataLoader) -> DataLoader:
    """A signal to the whole process group would kill the workers, and by that the run."""
    loader = getattr(dataloader, "base_dataloader", dataloader)
    if not isinstance(loader.worker_init_fn, _Shielded):
        loader.worker_init_fn = _Shielded(loader.worker_init_fn)
    return dataloader
