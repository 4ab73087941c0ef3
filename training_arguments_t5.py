"""What the Trainer is started with: its own arguments, with T5's defaults, checked and completed.

Which flags there are, and their defaults, `arguments_t5` says; it loads without torch, and this
module joins its classes with the Trainer's when the flags are parsed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import sys
from dataclasses import dataclass

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from amounts import (
    BINARY_PREFIXES,
    count_steps_per_epoch,
    num_times,
    parse_amount,
    split_batch,
)
from arguments_t5 import (
    AMOUNTS,
    INTERVALS,
    LENGTHS,
    FineTuningFlags,
    PreTrainingFlags,
    TrainingFlags,
    require_at_least,
)
from errors import UserError, did_you_mean
from flops_t5 import PEAK_FLOPS, peak_flops
from optimizer_t5 import (
    CHOSEN_BY_PRESET,
    FROM_SCRATCH,
    OPTIMIZERS,
    SCHEDULES,
    check_settings,
    complete,
    optimizer_settings,
    read_settings,
    schedule_settings,
)
from run_files_t5 import without_secrets
from whole_files import plain_name
from zero_t5 import (
    extensions_folder,
    join_cpu_ranks,
    read_zero,
    require_no_stale_build,
    require_possible,
    zero_stage,
)

logger = logging.getLogger(__name__)


@dataclass
class T5TrainingArguments(TrainingFlags, Seq2SeqTrainingArguments):
    """The Trainer's arguments with defaults that suit T5, and T5's own optimizers and schedules."""

    def __post_init__(self):
        require_at_least(
            self,
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            gradient_accumulation_steps=1,
            max_failed_saves=1,
            remote_keep_last=1,
            remote_wait_minutes=0,
            hang_timeout_minutes=0,
            stop_after_hours=0,
            skip_loss_spikes=1,
            seed=0,
        )
        self._refuse_what_would_be_ignored()
        optimizer = self._known(self.optim, OPTIMIZERS, OptimizerNames, flag="--optim")
        self._choose_optimization(optimizer)
        if self.global_batch_size is not None:
            self._share_global_batch()
        self._read_amounts()
        if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
            # Trials of a sweep share their flags' folder; each gets one of its own in it.
            self.output_dir = os.path.join(self.output_dir, plain_name(os.environ["WANDB_RUN_ID"]))
        # transformers 5.23 warns of these names, the only ones that 5.20 (Python 3.10) knows.
        for name in ("checkpointing", "checkpointing_kwargs"):
            if getattr(self, f"activation_{name}", False) is None:
                setattr(self, f"activation_{name}", getattr(self, f"gradient_{name}"))
        if not self.do_eval:
            self.eval_strategy, self.load_best_model_at_end = "no", False
        if self.fp16 and not self.force_fp16:
            raise UserError(
                "--fp16: T5 was trained in bfloat16, and its activations exceed 65,504, the "
                "largest number of float16; the loss becomes nan. Leave it out (bfloat16 where "
                "the device has it, else float32), or insist with --force_fp16."
            )
        if not (0 <= self.z_loss < 1 and 0 <= self.label_smoothing_factor < 1):
            raise UserError(
                f"--z_loss {self.z_loss}, --label_smoothing_factor "
                f"{self.label_smoothing_factor}: expected from 0 to below 1."
            )
        if self.use_cpu is None:
            self.use_cpu = torch.accelerator.current_accelerator(check_available=True) is None
        if self.use_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and computes_bf16(self.use_cpu)
        if self.resume_from_checkpoint in ("none", "None", "False", ""):
            self.resume_from_checkpoint = None
        # Trackers and files get every field, so the one that holds a password is no field.
        self.remote_url = self.remote_checkpoint_dir
        if self.remote_url is not None:
            self.remote_checkpoint_dir = without_secrets(self.remote_url)
        if self.skip_loss_spikes is not None and (self.deepspeed or self.fp16):
            raise UserError(
                "--skip_loss_spikes takes a step back before the optimizer makes it, which "
                "--deepspeed and --fp16 leave no moment for. Use --bf16 without DeepSpeed."
            )
        schedule = self.lr_scheduler_type
        self.optim, self.lr_scheduler_type = "adamw_torch", "constant"
        if not self.deepspeed and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            # What `accelerate launch` was configured with; the library takes it up unseen.
            self.deepspeed = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
            if self.deepspeed in (None, "", "none"):
                raise UserError(
                    "accelerate launch --use_deepspeed without a file: give --deepspeed "
                    "zero_stage2_config.json."
                )
        if isinstance(self.deepspeed, str):
            require_no_stale_build(extensions_folder())
            require_possible(
                self.deepspeed,
                optimizer=optimizer,
                is_own=optimizer in OPTIMIZERS,
                bf16=self.bf16,
                fp16=self.fp16,
            )
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise UserError(f"The flags do not go together: {error}") from error
        if optimizer not in OPTIMIZERS:
            optimizer = OptimizerNames(optimizer)
        if schedule not in SCHEDULES:
            schedule = SchedulerType(schedule)
        self.optim, self.lr_scheduler_type = optimizer, schedule
        self._use_one_device_per_process()
        if self.deepspeed and self.use_cpu:
            join_cpu_ranks()

    def _share_global_batch(self) -> None:
        """Sets examples per device and accumulation for the processes that were launched."""
        if self.gradient_accumulation_steps != 1:
            raise UserError(
                f"--global_batch_size {self.global_batch_size} and --gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps} both say how much is accumulated. Leave the "
                "second one out."
            )
        amount = parse_amount(
            self.global_batch_size,
            flag="--global_batch_size",
            unit="examples",
            units=("examples",),
            prefixes=BINARY_PREFIXES,
        )
        self.per_device_train_batch_size, self.gradient_accumulation_steps = split_batch(
            round(amount.number),
            num_ranks=_num_processes(),
            most_per_device=self.per_device_train_batch_size,
        )

    def _read_amounts(self) -> None:
        """Sets lengths and intervals in steps; `fit_to_data` does the same for those in epochs."""
        self.in_epochs: dict[str, float] = {}
        examples_per_step = self.per_device_train_batch_size * self.gradient_accumulation_steps
        examples_per_step *= _num_processes()
        for name in AMOUNTS:
            text = getattr(self, name)
            if text is None:
                continue
            amount = parse_amount(text, flag=f"--{name}")
            value: float = amount.number
            if amount.unit == "examples":
                value = max(1, round(amount.number / examples_per_step))
            elif amount.unit == "epochs" and name == "max_steps":
                self.num_train_epochs, value = amount.number, -1
            elif amount.unit == "epochs":
                self.in_epochs[name], value = amount.number, 1
            elif amount.unit == "steps":
                value = int(amount.number)
            is_length = name == "max_steps"
            least = {"max_steps": -1, "warmup_steps": 0}.get(name, 0)
            if value < least or (is_length and (value == 0 or amount.unit == "fraction")):
                raise UserError(f"--{name} {text}: expected {LENGTHS if is_length else INTERVALS}.")
            setattr(self, name, value)
        if self.in_epochs:
            # The library compares intervals while they are not all known.
            self._intervals = {name: getattr(self, name) for name in ("eval_steps", "save_steps")}
            self.eval_steps = self.save_steps = 1

    def fit_to_data(self, *, num_train_examples: int) -> None:
        """Sets in steps what was given in epochs. Scripts call it when the data is known."""
        if not self.in_epochs:
            return
        steps_per_epoch = count_steps_per_epoch(
            num_train_examples,
            per_device=self.per_device_train_batch_size,
            num_ranks=self.world_size,
            accumulation=self.gradient_accumulation_steps,
        )
        for name, value in self._intervals.items():
            setattr(self, name, value)
        for name, epochs in self.in_epochs.items():
            setattr(self, name, max(1, round(epochs * steps_per_epoch)))
        if self.eval_steps is None:
            self.eval_steps = self.logging_steps
        if self.load_best_model_at_end and self.save_steps % self.eval_steps:
            self.save_steps = max(1, round(self.save_steps / self.eval_steps)) * self.eval_steps

    def start_from_scratch(self) -> None:
        """The optimizer's settings for random weights, where --optim_args says nothing else."""
        chosen = {
            name: value
            for name, value in FROM_SCRATCH.get(self.optim, {}).items()
            if name not in self.own_optimizer_settings
        }
        if chosen:
            self.own_optimizer_settings |= chosen
            self.optim_args = self.given["optim_args"] = json.dumps(self.own_optimizer_settings)
            shown = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
            self.optimization += f"; {shown} (from scratch)"

    def _choose_optimization(self, optimizer: str) -> None:
        """The preset of the optimizer where no flag says otherwise; refuses what cannot work."""
        schedule = self.lr_scheduler_type
        if schedule is not None:
            self._known(schedule, SCHEDULES, SchedulerType, flag="--lr_scheduler_type")
        self.lr_scheduler_kwargs = (
            read_settings(self.lr_scheduler_kwargs, flag="--lr_scheduler_kwargs") or None
        )
        self.own_optimizer_settings = read_settings(self.optim_args, flag="--optim_args")
        check_settings(
            self.own_optimizer_settings,
            known=optimizer_settings(optimizer),
            flag=f"--optim_args {self.optim_args} for --optim {optimizer}",
        )
        given = {name: getattr(self, name) for name in CHOSEN_BY_PRESET}
        self.chosen, self.optimization = complete(given, stage=self.stage, optimizer=optimizer)
        for name, value in self.chosen.items():
            setattr(self, name, value)
        check_settings(
            self.lr_scheduler_kwargs,
            known=schedule_settings(self.lr_scheduler_type),
            flag=f"--lr_scheduler_kwargs for --lr_scheduler_type {self.lr_scheduler_type}",
        )

    def _refuse_what_would_be_ignored(self) -> None:
        """Flags of the library that this project's trainer has another way for."""
        fixed = {
            "remove_unused_columns": (False, "the collators write what T5 takes"),
            "train_sampling_strategy": ("random", "data order is a function of (seed, epoch)"),
            "average_tokens_across_devices": (True, "the loss counts the tokens of all ranks"),
            "predict_with_generate": (False, "use --eval_with generate"),
            "generation_num_beams": (None, "use --eval_with_beam_search"),
            "generation_max_length": (None, "use --target_seq_length"),
            "generation_config": (None, "use --eval_with_beam_search and its flags"),
            "torch_compile": (False, "use --compile blocks, whose steps are faster"),
        }
        for name, (value, reason) in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"--{name} {getattr(self, name)} has no effect here: {reason}.")
        epochs, default = self.num_train_epochs, Seq2SeqTrainingArguments.num_train_epochs
        if self.stage == "pre_training" and epochs != default and self.max_steps != "-1":
            raise UserError(
                f"--num_train_epochs {epochs:g} has no effect beside --max_steps {self.max_steps}. "
                f"Type --max_steps {epochs:g}_epochs instead."
            )
        known = ("none", "tensorboard", "wandb", "trackio", "all")
        trackers = [tracker.strip() for tracker in str(self.report_to).split(",")]
        for tracker in trackers:
            if tracker not in known or (tracker in ("none", "all") and len(trackers) > 1):
                raise UserError(
                    f"--report_to {self.report_to}: expected one of {', '.join(known)}."
                    f"{did_you_mean(tracker, known)}"
                )
            if tracker == "trackio" and importlib.util.find_spec("trackio") is None:
                raise UserError("--report_to trackio: it is not installed; pip install trackio.")
        self.report_to = trackers if len(trackers) > 1 else trackers[0]

    def _use_one_device_per_process(self) -> None:
        """One process drives one GPU; torch's DataParallel would change T5's loss."""
        if self.n_gpu > 1:
            logger.warning(
                "%d GPUs are here and one process uses one of them. For all: torchrun "
                "--nproc_per_node %d %s ...",
                self.n_gpu,
                self.n_gpu,
                os.path.basename(sys.argv[0]),
            )
            self._n_gpu = 1

    def _optimizer_name(self) -> str:
        return str(getattr(self.optim, "value", self.optim))

    def planned(self) -> dict[str, object]:
        """What `plan_t5.print_plan` wants to know of a run's settings."""
        peak = peak_flops(self.plan_device)
        devices = [int(word) for word in self.plan_devices.split(",") if word.strip().isdigit()]
        if peak is None:
            raise UserError(
                f"--plan_device {self.plan_device}: expected one of {', '.join(PEAK_FLOPS)}."
            )
        if not devices or 0 in devices or not 0 < self.plan_utilisation <= 1:
            raise UserError(
                f"--plan_devices {self.plan_devices}, --plan_utilisation {self.plan_utilisation}: "
                "expected numbers such as 8,64 and a share of at most 1."
            )
        return {
            "examples_per_device": self.per_device_train_batch_size,
            "accumulation": self.gradient_accumulation_steps,
            "num_ranks": self.world_size,
            "bf16": self.bf16,
            "optimizer": self._optimizer_name(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "num_steps": self.max_steps if self.max_steps > 0 else None,
            "devices": devices,
            "device_name": self.plan_device,
            "device_flops": peak,
            "device_bytes": self.plan_memory * 1e9,
            "utilisation": self.plan_utilisation,
            "price_per_hour": self.plan_price,
        }

    def machine(self) -> dict[str, object]:
        """What `preflight_t5.check_machine` wants to know of a run's settings."""
        return {
            "trains": self.do_train,
            "output_dir": self.output_dir,
            # One process tracks a run, and its node alone needs a key.
            "trackers": self.report_to if self.process_index == 0 else [],
            "remote_url": self.remote_url,
            "device": self.device,
            "num_ranks": self.world_size,
            "num_ranks_here": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
            "bf16": self.bf16,
            "fp16": self.fp16,
            "computes_bf16": computes_bf16(self.use_cpu),
            "examples_per_device": self.per_device_train_batch_size,
            "optimizer": self._optimizer_name(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "deepspeed": self.deepspeed,
            "is_fsdp": self.launch()["engine"] == "FSDP",
            "saves_optimizer": not self.save_only_model,
            "num_kept": self._most_kept(),
        }

    def _most_kept(self) -> int:
        """Checkpoints that a run keeps at the same time, as far as it is known before its data."""
        if self.save_strategy == "no":
            return 0
        limit = self.save_total_limit
        if self.max_steps <= 0 or "save_steps" in self.in_epochs:
            return 1 if limit is None else limit
        if self.save_strategy == "steps":
            # While other intervals wait for the data, this one does too.
            every = self._intervals["save_steps"] if self.in_epochs else self.save_steps
            if every < 1:
                every = math.ceil(self.max_steps * every)
            num_saves = math.ceil(self.max_steps / every)  # the last step is saved in any case
            return num_saves if limit is None else min(limit, num_saves)
        return 1 if limit is None else limit

    def examples_per_step(self) -> int:
        """Examples of one optimizer step on all processes together."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def rehearsal_settings(self) -> dict[str, object]:
        """What a run of two steps must have otherwise: a warm-up that ends before it does.

        T5's rsqrt keeps its own, which bounds the learning rate.
        """
        is_absolute = float(self.warmup_steps) > 1 and self.lr_scheduler_type != "rsqrt"
        return {"warmup_steps": 0.5} if is_absolute else {}

    def whole_run(self, *, num_train_examples: int | None) -> dict[str, object]:
        """What `rehearsal_t5.tell_cost` wants to know of a run that trains on so many examples.

        None: how many there are is not known, and so is the length of a run in epochs.
        """
        num_steps = self.max_steps if self.max_steps > 0 else None
        if num_train_examples is not None:
            self.fit_to_data(num_train_examples=num_train_examples)
            steps_per_epoch = count_steps_per_epoch(
                num_train_examples,
                per_device=self.train_batch_size,
                num_ranks=self.world_size,
                accumulation=self.gradient_accumulation_steps,
            )
            num_steps = num_steps or math.ceil(self.num_train_epochs * steps_per_epoch)
        evaluations, saves = (
            self.count_events(kind, num_steps=num_steps or 0) for kind in ("eval", "save")
        )
        return {
            "num_steps": num_steps if self.do_train else 0,
            "examples_per_step": self.examples_per_step(),
            "num_evaluations": max(evaluations, 1) if self.do_eval else 0,
            "num_saves": saves,
            "num_kept": self.save_total_limit,
        }

    def count_events(self, kind: str, *, num_steps: int) -> int:
        """How often a run of so many steps evaluates (`kind` "eval") or saves ("save")."""
        strategy, every = getattr(self, f"{kind}_strategy"), getattr(self, f"{kind}_steps")
        return num_times(
            str(getattr(strategy, "value", strategy)),
            every or num_steps,
            num_steps=max(num_steps, 1),
            num_epochs=self.num_train_epochs,
        )

    def launch(self) -> dict[str, object]:
        """What `launch_t5.announce_launch` wants to know."""
        engine = "DDP"
        if self.deepspeed:
            engine = f"DeepSpeed ZeRO-{zero_stage(read_zero(self.deepspeed))}"
        elif self._is_sharded_by_fsdp():
            engine = "FSDP"
        return {
            "rank": self.process_index,
            "num_ranks": self.world_size,
            "expected": self.expect_processes,
            "device": self.device,
            "engine": engine,
        }

    def _is_sharded_by_fsdp(self) -> bool:
        """True where FSDP is asked for; UserError where accelerate would silently do without."""
        asked = self.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if asked and self.distributed_state.distributed_type.name in ("NO", "MULTI_CPU"):
            raise UserError(
                f"FSDP was asked for, and accelerate does without it on {self.device.type} with "
                f"{self.world_size} processes. Start one process per GPU, or type accelerate "
                "launch --config_file runs/accelerate/cpu.yaml, or --deepspeed "
                "zero_stage3_config.json, which shares on CPUs too."
            )
        return bool(asked)

    @staticmethod
    def _known(name: str, own: dict, library: type, *, flag: str) -> str:
        others = [member.value for member in library if member.value not in own]
        if name not in own and name not in others:
            raise UserError(
                f"{flag} {name} is not known.{did_you_mean(name, [*own, *others])} This project "
                f"has {', '.join(own)}; the Trainer has {', '.join(others)}."
            )
        return name


def _num_processes() -> int:
    """Processes of this run on all machines, as every launcher announces them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def computes_bf16(use_cpu: bool) -> bool:
    """True where the device has bfloat16 arithmetic and does not imitate it."""
    if use_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class PreTrainingArguments(PreTrainingFlags, T5TrainingArguments):
    """What `pre_train_t5.py` starts the Trainer with."""


@dataclass
class FineTuningArguments(FineTuningFlags, T5TrainingArguments):
    """What `fine_tune_t5.py` starts the Trainer with."""


# What the Trainer takes for the flags of a script.
COMPLETE = {PreTrainingFlags: PreTrainingArguments, FineTuningFlags: FineTuningArguments}
