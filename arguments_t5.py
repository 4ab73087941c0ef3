"""Every flag of the two scripts: what it sets, its unit, and why its default is what it is.

`flags.parse_flags` reads a recipe and the command line into these dataclasses. The Trainer's
own arguments are inherited, with T5's defaults where the library's do not suit T5; only the scripts
know these classes, everything else takes plain values.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from dataclasses import dataclass, field

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from amounts import (
    BINARY_PREFIXES,
    count_steps_per_epoch,
    parse_amount,
    split_batch,
)
from constants import DATASET_VALS, MODEL_SHAPES
from errors import UserError, did_you_mean
from flops_t5 import PEAK_FLOPS, peak_flops
from mixtures_t5 import MIXINGS
from objective_mixtures import MIXTURES, OBJECTIVE_NAMES, parse_components
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
from train_batches_t5 import TRAIN_BATCHINGS
from whole_files import plain_name
from zero_t5 import join_cpu_ranks, read_zero, require_possible, zero_stage

logger = logging.getLogger(__name__)

AMOUNTS = ("max_steps", "warmup_steps", "logging_steps", "eval_steps", "save_steps")
LENGTHS = "steps (10k), 10G_tokens (pre-training), 5M_examples or 3_epochs"
INTERVALS = "steps, below 1 a fraction of the run, 100M_tokens, 1M_examples or 0.5_epochs"


def flag(default, help: str, **metadata):
    """A dataclass field that is a flag: its default and the text `--help` shows."""
    return field(default=default, metadata={"help": help.replace("%", "%%"), **metadata})


@dataclass
class ModelArguments:
    """Which model is trained."""

    _argument_group_name = "model"

    model_name_or_path: str = flag(
        "google/t5-v1_1-base",
        "Hub name or folder of the checkpoint to start from: T5, T5 v1.1, mT5, FLAN-T5.",
    )
    initialize_from_scratch: bool = flag(
        False, "Start from random weights of --config_name instead of a checkpoint."
    )
    config_name: str | None = flag(
        None,
        f"Shape of a model from scratch: one of {', '.join(MODEL_SHAPES)} (known offline), or a "
        "folder or Hub name. None: --model_name_or_path. A shape alone implies "
        "--initialize_from_scratch.",
    )
    config_overrides: str | None = flag(
        None, "Fields of the model's config to change: d_model=128,num_layers=4."
    )
    tokenizer_name: str | None = flag(
        None, "Folder or Hub name of the tokenizer. None: --model_name_or_path."
    )
    attn_implementation: str = flag(
        "auto",
        "Attention code: eager, sdpa, or auto. Auto is eager on a CPU, where sdpa trains slower "
        "because T5's bias needs a gradient, and sdpa on a GPU.",
        choices=["auto", "eager", "sdpa"],
    )
    dropout_rate: float = flag(0.0, "Dropout.")

    def __post_init__(self):
        if self.config_name in MODEL_SHAPES:
            self.initialize_from_scratch = True
        elif self.config_name and not self.initialize_from_scratch:
            raise UserError(
                f"--config_name {self.config_name} is no shape known by name."
                f"{did_you_mean(self.config_name, MODEL_SHAPES)} With a folder or Hub name, "
                "--initialize_from_scratch says that its weights are not wanted."
            )
        if self.tokenizer_name is None:
            self.tokenizer_name = self.model_name_or_path

    def settings(self) -> dict[str, object]:
        """What `model_t5.start_model` wants to know."""
        return {
            "name_or_path": self.model_name_or_path,
            "shape": (self.config_name or self.model_name_or_path)
            if self.initialize_from_scratch
            else None,
            "config_overrides": self.config_overrides,
            "dropout_rate": self.dropout_rate,
            "attn_implementation": self.attn_implementation,
        }


@dataclass
class PreTrainingModelArguments(ModelArguments):
    num_sentinels: int | None = flag(
        None,
        "Sentinel tokens (<extra_id_0>, ...) the tokenizer shall have at least; missing ones are "
        "added, and the embedding grows to a multiple of 128 rows. None: those it has; T5 has 100.",
    )
    dropout_rate: float = flag(0.0, "Dropout. T5 v1.1 was pre-trained without.")
    initial_attention: str = flag(
        "guided",
        "Attention of a model from scratch. guided: heads begin by looking near, and sentinels by "
        "looking for themselves in the encoder (docs/optimizers.md); random: the library's.",
        choices=["guided", "random"],
    )

    def settings(self) -> dict[str, object]:
        return super().settings() | {"initial_attention": self.initial_attention}


@dataclass
class FineTuningModelArguments(ModelArguments):
    dropout_rate: float = flag(0.1, "Dropout. T5's rate for fine-tuning.")
    lora_r: int | None = flag(
        None,
        "Train low-rank adapters of this rank (LoRA, through peft) and leave all other weights as "
        "they are. None: train all weights.",
    )
    lora_alpha: float | None = flag(
        None, "The adapters' output is scaled by lora_alpha / lora_r. None: 2 * lora_r."
    )
    lora_dropout: float = flag(0.0, "Dropout before the adapters.")
    lora_target_modules: str = flag(
        "q,v",
        "Comma list of the layers that get adapters, as LoRA's paper has it, or all-linear.",
    )
    lora_merge: bool = flag(
        False,
        "Add the trained adapters to the weights and leave a whole model, not an adapter folder.",
    )

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, lora_r=1)
        self._require_lora()

    def _require_lora(self) -> None:
        """Refuses settings of LoRA that would be ignored or could not be loaded again."""
        settings = {
            "lora_alpha": self.lora_alpha is not None,
            "lora_dropout": self.lora_dropout != 0,
            "lora_target_modules": self.lora_target_modules != "q,v",
            "lora_merge": self.lora_merge,
        }
        if self.lora_r is None:
            for name in (name for name, is_given in settings.items() if is_given):
                raise UserError(f"--{name} has no effect without --lora_r; give --lora_r 8.")
        elif importlib.util.find_spec("peft") is None:
            raise UserError(
                f"--lora_r {self.lora_r} needs peft, which is not here: pip install peft."
            )
        elif self.initialize_from_scratch and not self.lora_merge:
            raise UserError(
                f"--lora_r {self.lora_r} with random weights: an adapter folder names the model it "
                "belongs to, and there is none. Add --lora_merge True, or give "
                "--model_name_or_path."
            )


@dataclass
class DataArguments:
    """What both scripts know of their data."""

    _argument_group_name = "data"

    train_file: str | None = flag(
        None,
        "Training text: comma list and globs of .txt, .jsonl, .csv, .tsv, .parquet, "
        "plain, .gz or .zst.",
    )
    validation_file: str | None = flag(None, "Held-out text, in the same forms.")
    max_train_examples: int | None = flag(None, "Use at most so many. None: all.")
    max_validation_examples: int | None = flag(None, "Use at most so many. None: all.")
    input_seq_length: int = flag(512, "Encoder tokens per example, EOS included. T5's default.")
    show_examples: int = flag(
        0,
        "Print so many examples as text, ids and lengths, with the share truncated and unknown, "
        "and stop before a model is loaded.",
    )

    def __post_init__(self):
        _require_at_least(
            self,
            input_seq_length=4,
            target_seq_length=2,
            max_train_examples=1,
            max_validation_examples=1,
            max_test_examples=1,
            beam_search_num_beams=1,
            patience=1,
            show_examples=0,
            num_samples=0,
        )


def _require_at_least(flags: object, **least: float) -> None:
    for name, smallest in least.items():
        value = getattr(flags, name, None)
        if value is not None and value < smallest:
            raise UserError(f"--{name} {value}: expected at least {smallest}.")


@dataclass
class CorpusArguments:
    """Which documents are read, besides --train_file."""

    dataset_paths: str | None = flag(
        None,
        "Data sets: comma list of Hub names, save_to_disk folders, and installed_docs (the English "
        "documentation that the installed packages bring along).",
    )
    dataset_names: str | None = flag(
        None, "Configurations of --dataset_paths, one by one, as in 20220301.en, (empty: none)."
    )
    text_column_name: str = flag("text", "Column that holds the text.")

    def require_text(self) -> None:
        """Refuses to start without any text to read."""
        if not (self.train_file or self.dataset_paths):
            raise UserError(
                "No text to train on: give --train_file FILE[,FILE...] or --dataset_paths NAME "
                "(installed_docs is there without network)."
            )


@dataclass
class PreTrainingDataArguments(CorpusArguments, DataArguments):
    num_samples: int = flag(
        2,
        "Examples printed before the first step, and held-out blanks that the model fills in at "
        "each evaluation; 0 for none.",
    )
    validation_split_percentage: float = flag(
        5.0,
        "Percent of the windows held out where there is no --validation_file; 0 for none. Runs of "
        "8 neighbouring windows, spread evenly.",
    )
    tokenized_dataset_dir: str = flag(
        "./tokenized_datasets",
        "Folder of tokenised corpora, found again by contents, tokenizer and settings.",
    )
    mixing_weights: str | None = flag(
        None,
        "Shares of the sources, as in 0.7,0.3: one number for each entry of --train_file and then "
        "of --dataset_paths. None: all text once per epoch.",
    )
    mixing_temperature: float | None = flag(
        None,
        "Mix sources by min(windows, --mixing_maximum) ** (1 / temperature); 1 is by size, large "
        "is evenly. T5 and mT5 name 2 to 4.",
    )
    mixing_maximum: int | None = flag(
        None, "Windows that a source counts at most when sources are mixed by size. None: all."
    )
    one_document_per_example: bool = flag(
        False,
        "Cut each document by itself, so that no example holds text of two; short documents are "
        "padded. Off: documents are joined and examples full, as T5 has it.",
    )
    streaming: bool = flag(
        False,
        "Read and tokenise while training instead of before; needs --max_steps. Text is shuffled "
        "in blocks of 4,096 windows.",
    )
    preprocess_only: bool = flag(
        False, "Tokenise, print what was found, and stop before a model is loaded."
    )
    preprocessing_num_workers: int | None = flag(
        None,
        "Processes that tokenise. None: the threads of this one.",
    )
    objective: str = flag(
        "span_corruption",
        f"What is learnt: {', '.join(OBJECTIVE_NAMES)} (docs/objectives.md draws each).",
        choices=list(OBJECTIVE_NAMES),
    )
    objective_mixture: str | None = flag(
        None,
        "Components of --objective mixture: in a recipe a list of {objective, weight, ...}; here "
        """JSON, as in '{"span_corruption": 3, "prefix_lm": 1}'.""",
    )
    masking: str = flag(
        "span",
        "What may only be hidden together: span (nothing: T5's free spans), whole_word, or pmi "
        "(phrases of --pmi_vocab_path, one by one, else words).",
        choices=["span", "whole_word", "pmi"],
    )
    pmi_vocab_path: str | None = flag(
        None, "File of phrases for --masking pmi, made by pmi_vocab_t5.py: one per line."
    )
    mlm_probability: float = flag(0.15, "Share of tokens hidden. T5's default.")
    mean_noise_span_length: float = flag(3.0, "Mean length of a hidden span, tokens. T5's default.")
    random_roll: bool = flag(
        False,
        "Turn each mask by a random offset, so that a text may start hidden and end visible. T5's "
        "default is off: the last token is then always hidden.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mlm_probability < 1:
            raise UserError(
                f"--mlm_probability {self.mlm_probability}: expected a share between 0 and 1."
            )
        if self.mean_noise_span_length < 1:
            raise UserError(
                f"--mean_noise_span_length {self.mean_noise_span_length}: a span has at least 1 "
                "token."
            )
        self._check_mixture()
        if (self.masking == "pmi") != (self.pmi_vocab_path is not None):
            raise UserError(
                "--masking pmi and --pmi_vocab_path FILE go together: give both or none. "
                "pmi_vocab_t5.py makes FILE."
            )
        if not 0 <= self.validation_split_percentage <= 50:
            raise UserError(
                f"--validation_split_percentage {self.validation_split_percentage}: expected 0 "
                "to 50 percent."
            )
        _require_at_least(self, mixing_maximum=1, preprocessing_num_workers=1)
        if self.mixing_temperature is not None and not 0 < self.mixing_temperature < float("inf"):
            raise UserError(
                f"--mixing_temperature {self.mixing_temperature}: expected a number above 0."
            )
        if self.mixing_weights and (self.mixing_temperature or self.mixing_maximum):
            raise UserError(
                "--mixing_weights says the shares itself: leave out --mixing_temperature and "
                "--mixing_maximum, or the weights."
            )
        if self.streaming and self.preprocess_only:
            raise UserError("--preprocess_only has nothing to do for --streaming: leave one out.")
        self.require_text()

    def _check_mixture(self) -> None:
        if (self.objective == "mixture") != (self.objective_mixture is not None):
            raise UserError(
                "--objective mixture and --objective_mixture go together: give both or none. "
                f"Mixtures known by name are {', '.join(MIXTURES)}."
            )
        self.components()

    def components(self) -> list[dict] | None:
        """The components of a mixture, None for a single objective."""
        if self.objective_mixture is not None:
            return parse_components(self.objective_mixture)
        return list(MIXTURES[self.objective]) if self.objective in MIXTURES else None


@dataclass
class FineTuningDataArguments(DataArguments):
    benchmark: str | None = flag(
        None,
        f"Benchmark of --dataset_name: {', '.join(DATASET_VALS)}, or one of --task_file. None: "
        "glue, or the only one of --task_file.",
    )
    dataset_name: str | None = flag(
        None,
        "Task, such as sst2; several as sst2,mrpc or glue/sst2,super_glue/cb; all: the benchmark's "
        "mixture. None: sst2, or the only one of --task_file.",
    )
    mixing: str | None = flag(
        None,
        "How several tasks share an epoch: proportional to T5's sizes, temperature (sizes ** "
        "1/temperature), or equal. None: proportional.",
        choices=[*MIXINGS],
    )
    mixing_maximum: int | None = flag(
        None, "No task counts as larger than so many examples. None: no limit."
    )
    mixing_temperature: float | None = flag(
        None, "Exponent of --mixing temperature; 1 is proportional. None: 2, as in T5's paper."
    )
    data_dir: str | None = flag(
        None,
        "Read tasks from DIR/{task}.{split}.jsonl[.gz] or "
        "DIR/{task}/{split}.{jsonl,csv,tsv,parquet}[.gz] instead of the Hub.",
    )
    task_file: str | None = flag(
        None, "YAML file with a task of your own, in the keys of DATASET_VALS (constants.py)."
    )
    test_file: str | None = flag(None, "Test rows, in the forms of --train_file.")
    max_test_examples: int | None = flag(None, "Use at most so many. None: all.")
    target_seq_length: int = flag(
        512,
        "Decoder tokens per example at most, EOS included. As much as the longest target of the "
        "task's rows needs is generated, and this at most.",
    )
    eval_with: str = flag(
        "generate",
        "How answers are found: generate (text, greedy), rank (the likeliest of the task's label "
        "words, in one pass), or teacher_forcing (loss and token accuracy only).",
        choices=["generate", "rank", "teacher_forcing"],
    )
    eval_with_beam_search: bool = flag(False, "Generate with beams instead of greedily.")
    beam_search_num_beams: int = flag(4, "Beams. T5's number.")
    beam_search_length_penalty: float = flag(0.6, "Length penalty of beams. T5's alpha.")
    patience: int | None = flag(
        None, "Stop after so many evaluations without a better score. None: never."
    )
    predict_chunk_rows: int = flag(
        4096,
        "Rows of a --test_file without labels that are held in memory, sorted by length and "
        "answered together.",
    )
    evaluate_all_checkpoints: bool = flag(
        False,
        "After training (or, with --do_train False, of --output_dir) evaluate every checkpoint "
        "kept, write all_checkpoints.json, and go on with the best.",
    )
    train_batching: str = flag(
        "random",
        "What shares a training batch: random examples, grouped (of one length, up to "
        "--tokens_per_batch), or packed (several in one row, kept apart by masks).",
        choices=[*TRAIN_BATCHINGS],
    )
    tokens_per_batch: int | None = flag(
        None,
        "Input and target tokens per device and step, padding included, of grouped and packed "
        "batches. None: as many as --per_device_train_batch_size examples of mean length have.",
    )

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, mixing_maximum=1, tokens_per_batch=1, predict_chunk_rows=1)
        if self.mixing_temperature is not None and self.mixing_temperature <= 0:
            raise UserError(
                f"--mixing_temperature {self.mixing_temperature}: expected a number above 0."
            )
        if self.tokens_per_batch is not None and self.train_batching == "random":
            raise UserError(
                f"--tokens_per_batch {self.tokens_per_batch} has no effect on random batches: add "
                "--train_batching grouped or packed, or use --per_device_train_batch_size."
            )
        if self.mixing_temperature is not None and self.mixing != "temperature":
            raise UserError(
                f"--mixing_temperature {self.mixing_temperature} goes with --mixing temperature."
            )
        if self.mixing_maximum is not None and self.mixing == "equal":
            raise UserError("--mixing_maximum has no effect on --mixing equal: leave it out.")
        if self.task_file is None:
            self.benchmark = self.benchmark or "glue"
            self.dataset_name = self.dataset_name or "sst2"


@dataclass
class T5TrainingArguments(Seq2SeqTrainingArguments):
    """The Trainer's arguments with defaults that suit T5, and T5's own optimizers and schedules."""

    stage = "fine_tuning"  # whose presets apply

    output_dir: str = flag("outputs", "Folder for the model, checkpoints, scores and the card.")
    do_train: bool = flag(True, "Train.")
    do_eval: bool = flag(True, "Evaluate on held-out data.")
    do_predict: bool = flag(True, "Score the test set and write predictions (fine-tuning).")
    optim: str = flag(
        "t5_adafactor",
        f"Optimizer: {', '.join(OPTIMIZERS)} (this project's), or any of the Trainer's, such as "
        "adamw_torch.",
    )
    optim_args: str | None = flag(
        None, "Settings of the optimizer's own, as in momentum=0.9,update_rms=0.2 for muon."
    )
    learning_rate: float | None = flag(
        None, "Peak learning rate. None, here and in the next seven: the preset of --optim."
    )
    lr_scheduler_type: str | None = flag(
        None,
        f"Schedule: {', '.join(SCHEDULES)} (this project's), or any of the Trainer's, such as "
        "linear, cosine.",
    )
    lr_scheduler_kwargs: dict | str | None = flag(
        None, "Settings of the schedule's own: min_lr=1e-5 or JSON."
    )
    warmup_steps: str | None = flag(None, f"Length of the warm-up: {INTERVALS}.")
    weight_decay: float | None = flag(None, "Weight decay of all but norms and biases.")
    adam_beta1: float | None = flag(None, "Decay of the running mean of gradients.")
    adam_beta2: float | None = flag(None, "Decay of the running mean of squared gradients.")
    adam_epsilon: float | None = flag(None, "Added to Adam's denominator.")
    bf16: bool | None = flag(
        None,
        "Train in bfloat16. None: wherever the device computes in it natively (T5 overflows in "
        "fp16, where its authors trained in bfloat16).",
    )
    use_cpu: bool | None = flag(None, "Use the CPU. None: only where there is no accelerator.")
    eval_strategy: str = flag("steps", "When to evaluate: no, steps or epoch.")
    global_batch_size: str | None = flag(
        None,
        "Examples per optimizer step on all processes together, or 64k_tokens (65,536 encoder "
        "tokens; pre-training). Accumulation follows, so the number of processes changes nothing. "
        "None: --per_device_train_batch_size x processes x --gradient_accumulation_steps.",
    )
    max_steps: str = flag("-1", f"Length of the run: {LENGTHS}. -1: by --num_train_epochs.")
    logging_steps: str = flag("50", f"Between log lines: {INTERVALS}.")
    eval_steps: str | None = flag(None, f"Between evaluations: {INTERVALS}.")
    save_steps: str = flag("500", f"Between checkpoints: {INTERVALS}.")
    save_total_limit: int | None = flag(2, "Checkpoints kept, the best one among them. None: all.")
    report_to: str = flag(
        "none", "Trackers: none, tensorboard, wandb, trackio. None of them is asked unless named."
    )
    remove_unused_columns: bool = flag(False, "Leave at False: the collators write what T5 takes.")
    resume_from_checkpoint: str | None = flag(
        "auto",
        "auto: the newest complete checkpoint of --output_dir or, where that is newer, of "
        "--remote_checkpoint_dir; PATH: that one; none.",
    )
    max_failed_saves: int = flag(
        3,
        "The run ends when so many checkpoints in a row could not be written (disk full, "
        "permission lost). Until then it goes on, the last complete one untouched.",
    )
    stop_after_hours: float | None = flag(
        None,
        "Save and leave with exit code 75 so early that a checkpoint is complete within so many "
        "hours after the start of the process. None: no limit.",
    )
    hang_timeout_minutes: float | None = flag(
        30.0,
        "End the run, and name the rank, when a rank did nothing for so long. Longer than your "
        "longest save. None: wait for ever.",
    )
    skip_loss_spikes: float | None = flag(
        None,
        "Leave out a step whose loss is not finite or above so many times its running mean; each "
        "is said and counted. None: none is, and a loss that is not finite ends the run.",
    )
    replay: str | None = flag(
        None,
        "bad_batch.json of a run whose loss was not finite: print what each of its examples does "
        "to the model, and stop.",
    )
    remote_checkpoint_dir: str | None = flag(
        None,
        "Copy each complete checkpoint there in the background: any fsspec address, such as "
        "sftp://host/folder, s3://bucket/folder, gs://, hf://, file:///folder. Passwords belong "
        "into the environment (FSSPEC_SFTP_PASSWORD).",
    )
    remote_keep_last: int = flag(2, "Remote checkpoints kept, besides the best one.")
    remote_wait_minutes: float = flag(
        10.0, "At the end, wait at most so long for copies that are still on their way."
    )
    restore_callback_states_from_checkpoint: bool = flag(
        True, "Go on with the patience of early stopping where it was."
    )
    z_loss: float = flag(
        1e-4,
        "Weight of log(Z)^2, which keeps the softmax's normaliser near 1; 0 for none. T5's value. "
        "Logged apart from the loss.",
    )
    logging_nan_inf_filter: bool = flag(
        False, "Leave at False: it hides a loss that is no number and waits for each step."
    )
    force_fp16: bool = flag(
        False, "Allow --fp16, in which T5's activations overflow from base size on."
    )
    seed: int = flag(42, "Seed of initialisation, dropout, data order and masks.")
    plan: bool = flag(
        False,
        "Print parameters, tokens and arithmetic of a step, memory per device under each engine, "
        "and the time of the run, without data and without making the model; then stop.",
    )
    plan_devices: str = flag("1,8,64", "Numbers of devices to plan for.")
    plan_device: str = flag(
        "H100", f"Kind of device, for its peak in bfloat16: {', '.join(PEAK_FLOPS)}."
    )
    plan_memory: float = flag(80.0, "Memory of a device, GB.")
    plan_utilisation: float = flag(
        0.4, "Share of the peak that is reached (MFU). 0.4 is what good runs of this size report."
    )
    plan_price: float | None = flag(None, "Price of a device for an hour. None: no price.")
    expect_processes: int | None = flag(
        None,
        "Processes of this run on all nodes; another number is refused at start. None: any.",
    )

    def __post_init__(self):
        _require_at_least(
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
            self.use_cpu = torch.accelerator.current_accelerator() is None
        if self.use_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and _computes_bf16(self.use_cpu)
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
        }
        for name, (value, reason) in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"--{name} {getattr(self, name)} has no effect here: {reason}.")
        known = ("none", "tensorboard", "wandb", "trackio", "all")
        for tracker in str(self.report_to).split(","):
            if tracker.strip() not in known:
                raise UserError(
                    f"--report_to {self.report_to}: expected one of {', '.join(known)}."
                    f"{did_you_mean(tracker, known)}"
                )
            if tracker == "trackio" and importlib.util.find_spec("trackio") is None:
                raise UserError("--report_to trackio: it is not installed; pip install trackio.")

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
            "optimizer": str(getattr(self.optim, "value", self.optim)),
            "gradient_checkpointing": self.gradient_checkpointing,
            "num_steps": self.max_steps if self.max_steps > 0 else None,
            "devices": devices,
            "device_name": self.plan_device,
            "device_flops": peak,
            "device_bytes": self.plan_memory * 1e9,
            "utilisation": self.plan_utilisation,
            "price_per_hour": self.plan_price,
        }

    def launch(self) -> dict[str, object]:
        """What `launch_t5.announce_launch` wants to know."""
        engine = "DDP"
        if self.deepspeed:
            engine = f"DeepSpeed ZeRO-{zero_stage(read_zero(self.deepspeed))}"
        elif self.distributed_state.distributed_type.name == "FSDP":
            engine = "FSDP"
        return {
            "rank": self.process_index,
            "num_ranks": self.world_size,
            "expected": self.expect_processes,
            "device": self.device,
            "engine": engine,
        }

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


def _computes_bf16(use_cpu: bool) -> bool:
    if use_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class PreTrainingArguments(T5TrainingArguments):
    stage = "pre_training"

    output_dir: str = flag(
        "outputs/pre_train", "Folder for the model, checkpoints, scores and the card."
    )
    optim: str = flag(
        "muon",
        f"Optimizer: {', '.join(OPTIMIZERS)} (this project's), or any of the Trainer's. Muon had "
        "the lowest loss after the same steps (benchmarks/optimizers_cpu_202611.md).",
    )
    max_steps: str = flag(
        "65536", f"Length of the run: {LENGTHS}. -1: by --num_train_epochs. nanoT5's number."
    )
    per_device_train_batch_size: int = flag(16, "Examples per device and step.")
    per_device_eval_batch_size: int = flag(16, "Examples per device in evaluation.")
    eval_steps: str | None = flag("0.1", f"Between evaluations: {INTERVALS}.")
    save_steps: str = flag("0.1", f"Between checkpoints: {INTERVALS}.")


@dataclass
class FineTuningArguments(T5TrainingArguments):
    output_dir: str = flag(
        "outputs/fine_tune", "Folder for the model, checkpoints, scores, predictions and the card."
    )
    num_train_epochs: float = flag(3.0, "Passes over the training rows.")
    per_device_train_batch_size: int = flag(16, "Examples per device and step.")
    per_device_eval_batch_size: int = flag(64, "Examples per device in evaluation.")
    eval_strategy: str = flag("epoch", "When to evaluate: no, steps or epoch.")
    save_strategy: str = flag("epoch", "When to save: as --eval_strategy, to keep the best model.")
    load_best_model_at_end: bool = flag(True, "Test with, and leave behind, the best checkpoint.")


# What each script parses.
PRE_TRAINING = (PreTrainingModelArguments, PreTrainingDataArguments, PreTrainingArguments)
FINE_TUNING = (FineTuningModelArguments, FineTuningDataArguments, FineTuningArguments)
