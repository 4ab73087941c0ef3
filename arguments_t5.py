"""Every flag of the programs: what it sets, its unit, and why its default is what it is.

`flags.parse_flags` reads a recipe and the command line into these dataclasses, `help_t5` shows
them. A flag is one line here: its default, its text and the group that `--help` shows it in. What
the Trainer has a default of its own for is declared here again with T5's; all else of the Trainer's
is taken as well (`training_arguments_t5`).

Nothing here loads torch or transformers, so that `--help` and a misspelt flag answer at once.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field

from constants import DATASET_VALS, MODEL_SHAPES
from errors import UserError, did_you_mean
from flops_t5 import PEAK_FLOPS
from objective_mixtures import MIXTURES, OBJECTIVE_NAMES, parse_components

AMOUNTS = ("max_steps", "warmup_steps", "logging_steps", "eval_steps", "save_steps")
LENGTHS = "steps (10k), 10G_tokens (pre-training), 5M_examples or 3_epochs"
INTERVALS = "steps, below 1 a fraction of the run, 100M_tokens, 1M_examples or 0.5_epochs"

# The parts of --help in their order: what each is about, and which of the Trainer's own flags also
# belong there.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": ("what is done, and where it goes", ("run_name", "push_to_hub", "hub_model_id")),
    "model": ("which shape, from which weights", ()),
    "adapters": ("LoRA: train little of a large model", ()),
    "task": ("what is asked, and where its rows are", ()),
    "data": ("which text or rows are read", ("dataloader_num_workers", "data_seed")),
    "vocabulary": ("what is kept", ()),
    "mixing": ("several sources or tasks in one run", ()),
    "objective": ("what is learnt from text, and the loss", ("label_smoothing_factor",)),
    "batch and length": (
        "of examples, of steps, of the run",
        ("num_train_epochs", "gradient_accumulation_steps"),
    ),
    "optimisation": ("how weights move", ("max_grad_norm",)),
    "evaluation": ("when, how, and which model is the best", ("metric_for_best_model",)),
    "checkpoints": ("what is saved, and how a run goes on", ()),
    "faults": ("what ends a run, and what does not", ("ddp_timeout",)),
    "logging": ("what is said while it trains", ("disable_tqdm",)),
    "device and speed": (
        "where it computes, and in which numbers",
        ("gradient_checkpointing", "torch_compile", "deepspeed", "fsdp"),
    ),
    "plan": ("what a run would need, without running it", ()),
}


class HelpText(str):
    """The text of a flag, which knows its heading.

    A key of its own in a field's metadata would not do: HfArgumentParser hands all to argparse.
    """

    group: str


def flag(default, help: str, *, group: str, choices: list[str] | None = None):
    """A dataclass field that is a flag: its default, what `--help` says and under which heading."""
    assert group in GROUPS, group
    text = HelpText(help.replace("%", "%%"))
    text.group = group
    return field(
        default=default, metadata={"help": text} | ({"choices": choices} if choices else {})
    )


@dataclass
class ModelArguments:
    """Which model is trained."""

    model_name_or_path: str = flag(
        "google/t5-v1_1-base",
        "Hub name or folder of the checkpoint to start from: T5, T5 v1.1, mT5, FLAN-T5.",
        group="model",
    )
    initialize_from_scratch: bool = flag(
        False, "Start from random weights of --config_name instead of a checkpoint.", group="model"
    )
    config_name: str | None = flag(
        None,
        f"Shape of a model from scratch: one of {', '.join(MODEL_SHAPES)} (known offline), or a "
        "folder or Hub name. None: --model_name_or_path. A shape alone implies "
        "--initialize_from_scratch.",
        group="model",
    )
    config_overrides: str | None = flag(
        None,
        "Fields of the model's config to change: d_model=128,num_layers=4. None: as it is.",
        group="model",
    )
    tokenizer_name: str | None = flag(
        None, "Folder or Hub name of the tokenizer. None: --model_name_or_path.", group="model"
    )
    attn_implementation: str = flag(
        "auto",
        "Attention code: eager (the library's), lean, sdpa, flex (docs/performance.md), or auto: "
        "lean on a CPU, where T5's bias, which needs a gradient, makes sdpa slow; sdpa on a GPU.",
        choices=["auto", "eager", "lean", "sdpa", "flex"],
        group="device and speed",
    )
    dropout_rate: float = flag(0.0, "Dropout, a share.", group="model")

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

    def published_base(self) -> str | None:
        """The Hub name of the model that this run goes on from, None for a folder or none."""
        is_folder = os.path.exists(self.model_name_or_path)
        return None if self.initialize_from_scratch or is_folder else self.model_name_or_path

    def settings(self) -> dict[str, object]:
        """What `model_t5.start_model` and `shape_of` want to know."""
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
        group="model",
    )
    dropout_rate: float = flag(
        0.0, "Dropout, a share. T5 v1.1 was pre-trained without.", group="model"
    )
    initial_attention: str = flag(
        "guided",
        "Attention of a model from scratch. guided: heads begin by looking near, and sentinels by "
        "looking for themselves in the encoder (docs/optimizers.md); random: the library's.",
        choices=["guided", "random"],
        group="model",
    )


@dataclass
class FineTuningModelArguments(ModelArguments):
    dropout_rate: float = flag(0.1, "Dropout, a share. T5's rate for fine-tuning.", group="model")
    lora_r: int | None = flag(
        None,
        "Train low-rank adapters of this rank (LoRA, through peft) and leave all other weights as "
        "they are. None: train all weights.",
        group="adapters",
    )
    lora_alpha: float | None = flag(
        None,
        "The adapters' output is scaled by lora_alpha / lora_r. None: 2 * lora_r.",
        group="adapters",
    )
    lora_dropout: float = flag(
        0.0, "Dropout on what enters the adapters, a share. peft's default.", group="adapters"
    )
    lora_target_modules: str = flag(
        "q,v",
        "Comma list of the layers that get adapters, as LoRA's paper has it, or all-linear.",
        group="adapters",
    )
    lora_merge: bool = flag(
        False,
        "Add the trained adapters to the weights and leave a whole model, not an adapter folder.",
        group="adapters",
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, lora_r=1)
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

    train_file: str | None = flag(
        None,
        "Training text or rows: comma list and globs of .txt, .jsonl, .csv, .tsv, .parquet, plain, "
        ".gz or .zst. None: --dataset_paths, or the task's own rows.",
        group="data",
    )
    validation_file: str | None = flag(
        None,
        "Held-out text or rows, in the forms of --train_file. None: a share of the training text, "
        "or the task's own split.",
        group="data",
    )
    max_train_examples: int | None = flag(
        None,
        "Train on at most so many examples (rows, or windows of --input_seq_length). None: all.",
        group="data",
    )
    max_validation_examples: int | None = flag(
        None, "Evaluate on at most so many examples. None: all.", group="data"
    )
    input_seq_length: int = flag(
        512,
        "Encoder tokens per example, EOS included; longer rows are cut. T5's default.",
        group="batch and length",
    )
    show_examples: int = flag(
        0,
        "Print so many examples as text, ids and lengths, with the share truncated and unknown, "
        "and stop before a model is loaded.",
        group="run",
    )
    num_samples: int = flag(
        2,
        "Examples printed before the first step, and held-out ones that the model answers at each "
        "evaluation; 0 for none.",
        group="evaluation",
    )

    def __post_init__(self):
        require_at_least(
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


def require_at_least(flags: object, **least: float) -> None:
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
        "documentation that the installed packages bring along). "
        "None: --train_file alone.",
        group="data",
    )
    dataset_names: str | None = flag(
        None,
        "Configurations of --dataset_paths, one by one, as in 20220301.en, (empty: none). "
        "None: none of them has any.",
        group="data",
    )
    text_column_name: str = flag(
        "text", "Column of the text, in files and data sets that have columns.", group="data"
    )

    def require_text(self) -> None:
        """Refuses to start without any text to read."""
        if not (self.train_file or self.dataset_paths):
            raise UserError(
                "No text to train on: give --train_file FILE[,FILE...] or --dataset_paths NAME "
                "(installed_docs is there without network)."
            )


@dataclass
class PreTrainingDataArguments(CorpusArguments, DataArguments):
    validation_split_percentage: float = flag(
        5.0,
        "Percent of the windows held out where there is no --validation_file; 0 for none. Runs of "
        "8 neighbouring windows, spread evenly.",
        group="data",
    )
    tokenized_dataset_dir: str = flag(
        "./tokenized_datasets",
        "Folder of tokenised corpora, found again by contents, tokenizer and settings.",
        group="data",
    )
    mixing_weights: str | None = flag(
        None,
        "Shares of the sources, as in 0.7,0.3: one number for each entry of --train_file and then "
        "of --dataset_paths. None: all text once per epoch.",
        group="mixing",
    )
    mixing_temperature: float | None = flag(
        None,
        "Mix sources by min(windows, --mixing_maximum) ** (1 / temperature); 1 is by size, large "
        "is evenly. T5 and mT5 name 2 to 4. None: by --mixing_weights, or all text once.",
        group="mixing",
    )
    mixing_maximum: int | None = flag(
        None,
        "Windows that a source counts at most when sources are mixed by size. None: all.",
        group="mixing",
    )
    one_document_per_example: bool = flag(
        False,
        "Cut each document by itself, so that no example holds text of two; short documents are "
        "padded. Off: documents are joined and examples full, as T5 has it.",
        group="data",
    )
    streaming: bool = flag(
        False,
        "Read and tokenise while training instead of before; needs --max_steps. Text is shuffled "
        "in blocks of 4,096 windows.",
        group="data",
    )
    preprocess_only: bool = flag(
        False, "Tokenise, print what was found, and stop before a model is loaded.", group="run"
    )
    preprocessing_num_workers: int | None = flag(
        None,
        "Processes that tokenise; each takes some seconds to start. None: this one, which "
        "remembers words, or its threads where a tokenizer does not allow that.",
        group="data",
    )
    objective: str = flag(
        "span_corruption",
        "What is learnt from a text. docs/objectives.md draws each; T5's own is the default.",
        choices=list(OBJECTIVE_NAMES),
        group="objective",
    )
    objective_mixture: str | None = flag(
        None,
        "Components of --objective mixture: in a recipe a list of {objective, weight, ...}; here "
        """JSON, as in '{"span_corruption": 3, "prefix_lm": 1}'. """
        "None: --objective alone.",
        group="objective",
    )
    masking: str = flag(
        "span",
        "What may only be hidden together: span (nothing: T5's free spans), whole_word, or pmi "
        "(phrases of --pmi_vocab_path, one by one, else words).",
        choices=["span", "whole_word", "pmi"],
        group="objective",
    )
    pmi_vocab_path: str | None = flag(
        None,
        "File of phrases for --masking pmi, made by pmi_vocab_t5.py: one per line. "
        "None: no phrases.",
        group="objective",
    )
    mlm_probability: float = flag(
        0.15, "Share of tokens hidden, between 0 and 1. T5's default.", group="objective"
    )
    mean_noise_span_length: float = flag(
        3.0, "Mean length of a hidden span, tokens. T5's default.", group="objective"
    )
    random_roll: bool = flag(
        False,
        "Turn each mask by a random offset, so that a text may start hidden and end visible. T5's "
        "default is off: the last token is then always hidden.",
        group="objective",
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
        require_at_least(self, mixing_maximum=1, preprocessing_num_workers=1)
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
        group="task",
    )
    dataset_name: str | None = flag(
        None,
        "Task, such as sst2; several as sst2,mrpc or glue/sst2,super_glue/cb; all: the benchmark's "
        "mixture. None: sst2, or the only one of --task_file.",
        group="task",
    )
    mixing: str | None = flag(
        None,
        "How several tasks share an epoch: proportional to T5's sizes, temperature (sizes ** "
        "1/temperature), or equal. None: proportional.",
        choices=["proportional", "temperature", "equal"],
        group="mixing",
    )
    mixing_maximum: int | None = flag(
        None, "No task counts as larger than so many examples. None: no limit.", group="mixing"
    )
    mixing_temperature: float | None = flag(
        None,
        "Exponent of --mixing temperature; 1 is proportional. None: 2, as in T5's paper.",
        group="mixing",
    )
    data_dir: str | None = flag(
        None,
        "Read tasks from DIR/{task}.{split}.jsonl[.gz] or "
        "DIR/{task}/{split}.{jsonl,csv,tsv,parquet}[.gz] instead of the Hub. "
        "None: from the Hub.",
        group="task",
    )
    task_file: str | None = flag(
        None,
        "YAML file with a task of your own, in the keys of DATASET_VALS (constants.py). "
        "None: the tasks of that table.",
        group="task",
    )
    test_file: str | None = flag(
        None,
        "Test rows, in the forms of --train_file; without labels they are only predicted. "
        "None: the task's own.",
        group="data",
    )
    max_test_examples: int | None = flag(
        None, "Predict at most so many test rows. None: all.", group="data"
    )
    target_seq_length: int = flag(
        512,
        "Decoder tokens per example at most, EOS included. As much as the longest target of the "
        "task's rows needs is generated, and this at most.",
        group="batch and length",
    )
    eval_with: str = flag(
        "generate",
        "How answers are found: generate (text, greedy), rank (the likeliest of the task's label "
        "words, in one pass), or teacher_forcing (loss and token accuracy only).",
        choices=["generate", "rank", "teacher_forcing"],
        group="evaluation",
    )
    eval_with_beam_search: bool = flag(
        False,
        "Generate with beams instead of greedily, as T5 did where answers are long.",
        group="evaluation",
    )
    beam_search_num_beams: int = flag(
        4, "Beams of --eval_with_beam_search. T5's number.", group="evaluation"
    )
    beam_search_length_penalty: float = flag(
        0.6,
        "Length penalty of the beams; above 0 favours long answers. T5's alpha.",
        group="evaluation",
    )
    patience: int | None = flag(
        None,
        "Stop after so many evaluations without a better score. None: never.",
        group="evaluation",
    )
    predict_chunk_rows: int = flag(
        4096,
        "Rows of a --test_file without labels that are held in memory, sorted by length and "
        "answered together.",
        group="evaluation",
    )
    evaluate_all_checkpoints: bool = flag(
        False,
        "After training (or, with --do_train False, of --output_dir) evaluate every checkpoint "
        "kept, write all_checkpoints.json, and go on with the best.",
        group="evaluation",
    )
    train_batching: str = flag(
        "random",
        "What shares a training batch: random examples, grouped (of one length, up to "
        "--tokens_per_batch), or packed (several in one row, kept apart by masks).",
        choices=["random", "grouped", "packed"],
        group="batch and length",
    )
    tokens_per_batch: int | None = flag(
        None,
        "Input and target tokens per device and step, padding included, of grouped and packed "
        "batches. None: as many as --per_device_train_batch_size examples of mean length have.",
        group="batch and length",
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, mixing_maximum=1, tokens_per_batch=1, predict_chunk_rows=1)
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
class TrainingFlags:
    """The Trainer's arguments that have another default here, and this project's own.

    `training_arguments_t5` joins them with the Trainer's class, which takes seconds to load.
    """

    stage = "fine_tuning"  # whose presets apply

    output_dir: str = flag(
        "outputs", "Folder for the model, checkpoints, scores and the card.", group="run"
    )
    do_train: bool = flag(
        True, "Train. False: evaluate and predict with the model as it is.", group="run"
    )
    do_eval: bool = flag(
        True, "Evaluate on held-out data, as --eval_strategy says and at the end.", group="run"
    )
    do_predict: bool = flag(
        True, "Score the test set and write predictions (fine-tuning).", group="run"
    )
    optim: str = flag(
        "t5_adafactor",
        "Optimizer: t5_adafactor, adamw_rms, muon, schedule_free (this project's), or any of the "
        "Trainer's, such as adamw_torch. T5 was fine-tuned with Adafactor (docs/optimizers.md).",
        group="optimisation",
    )
    optim_args: str | None = flag(
        None,
        "Settings of the optimizer's own, as in momentum=0.9,update_rms=0.2 for muon. "
        "None: its defaults.",
        group="optimisation",
    )
    learning_rate: float | None = flag(
        None,
        "Peak learning rate. None, here and in the seven flags that follow: "
        "the preset of --optim (docs/optimizers.md).",
        group="optimisation",
    )
    lr_scheduler_type: str | None = flag(
        None,
        "Schedule: rsqrt, constant, cosine_with_min_lr, warmup_stable_decay (this project's), or "
        "any of the Trainer's, such as linear, cosine. None: the preset's.",
        group="optimisation",
    )
    lr_scheduler_kwargs: dict | str | None = flag(
        None,
        "Settings of the schedule's own: min_lr=1e-5 or JSON. None: the preset's.",
        group="optimisation",
    )
    warmup_steps: str | None = flag(
        None, f"Length of the warm-up: {INTERVALS}. None: the preset's.", group="optimisation"
    )
    weight_decay: float | None = flag(
        None, "Weight decay of all but norms and biases. None: the preset's.", group="optimisation"
    )
    adam_beta1: float | None = flag(
        None,
        "Decay of the running mean of gradients, a share. None: the preset's.",
        group="optimisation",
    )
    adam_beta2: float | None = flag(
        None,
        "Decay of the running mean of squared gradients, a share. None: the preset's.",
        group="optimisation",
    )
    adam_epsilon: float | None = flag(
        None, "Added to Adam's denominator. None: the preset's.", group="optimisation"
    )
    bf16: bool | None = flag(
        None,
        "Train in bfloat16. None: wherever the device computes in it natively (T5 overflows in "
        "fp16, where its authors trained in bfloat16).",
        group="device and speed",
    )
    use_cpu: bool | None = flag(
        None, "Use the CPU. None: only where there is no accelerator.", group="device and speed"
    )
    eval_strategy: str = flag("steps", "When to evaluate: no, steps or epoch.", group="evaluation")
    global_batch_size: str | None = flag(
        None,
        "Examples per optimizer step on all processes together, or 64k_tokens (65,536 encoder "
        "tokens; pre-training). Accumulation follows, so the number of processes changes nothing. "
        "None: --per_device_train_batch_size x processes x --gradient_accumulation_steps.",
        group="batch and length",
    )
    max_steps: str = flag(
        "-1", f"Length of the run: {LENGTHS}. -1: by --num_train_epochs.", group="batch and length"
    )
    logging_steps: str = flag("50", f"Between log lines: {INTERVALS}.", group="logging")
    eval_steps: str | None = flag(
        None, f"Between evaluations: {INTERVALS}. None: --logging_steps.", group="evaluation"
    )
    save_steps: str = flag("500", f"Between checkpoints: {INTERVALS}.", group="checkpoints")
    save_total_limit: int | None = flag(
        2, "Checkpoints kept, the best one among them. None: all.", group="checkpoints"
    )
    report_to: str = flag(
        "none",
        "Trackers: none, tensorboard, wandb, trackio. None of them is asked unless named.",
        group="logging",
    )
    ddp_find_unused_parameters: bool | None = flag(
        False,
        "Look in each step for weights that had no part in it. T5 uses all of its; looking costs "
        "time. None: the library decides.",
        group="device and speed",
    )
    remove_unused_columns: bool = flag(
        False, "Leave at False: the collators write what T5 takes.", group="data"
    )
    resume_from_checkpoint: str | None = flag(
        "auto",
        "auto: the newest complete checkpoint of --output_dir or, where that is newer, of "
        "--remote_checkpoint_dir; PATH: that one; none: start over.",
        group="checkpoints",
    )
    max_failed_saves: int = flag(
        3,
        "The run ends when so many checkpoints in a row could not be written (disk full, "
        "permission lost). Until then it goes on, the last complete one untouched.",
        group="faults",
    )
    stop_after_hours: float | None = flag(
        None,
        "Save and leave with exit code 75 so early that a checkpoint is complete within so many "
        "hours after the start of the process. None: no limit.",
        group="faults",
    )
    hang_timeout_minutes: float | None = flag(
        30.0,
        "End the run, and name the rank, when a rank did nothing for so long. Longer than your "
        "longest save. None: wait for ever.",
        group="faults",
    )
    skip_loss_spikes: float | None = flag(
        None,
        "Leave out a step whose loss is not finite or above so many times its running mean; each "
        "is said and counted. None: none is, and a loss that is not finite ends the run.",
        group="faults",
    )
    replay: str | None = flag(
        None,
        "bad_batch.json of a run whose loss was not finite: print what each of its examples does "
        "to the model, and stop. "
        "None: a run as usual.",
        group="faults",
    )
    remote_checkpoint_dir: str | None = flag(
        None,
        "Copy each complete checkpoint there in the background: any fsspec address, such as "
        "sftp://host/folder, s3://bucket/folder, gs://, hf://, file:///folder. Passwords belong "
        "into the environment (FSSPEC_SFTP_PASSWORD). "
        "None: they stay in --output_dir alone.",
        group="checkpoints",
    )
    remote_keep_last: int = flag(
        2, "Remote checkpoints kept, besides the best one.", group="checkpoints"
    )
    remote_wait_minutes: float = flag(
        10.0,
        "At the end, wait at most so long for copies that are still on their way.",
        group="checkpoints",
    )
    restore_callback_states_from_checkpoint: bool = flag(
        True, "Go on with the patience of early stopping where it was.", group="checkpoints"
    )
    compile: str = flag(
        "auto",
        "Compile T5's blocks one by one for the shape of the first batch: blocks, none, or auto "
        "(pre-training runs so long that it pays, without DeepSpeed or FSDP; "
        "docs/performance.md).",
        choices=["auto", "none", "blocks"],
        group="device and speed",
    )
    z_loss: float = flag(
        1e-4,
        "Weight of log(Z)^2, which keeps the softmax's normaliser near 1; 0 for none. T5's value. "
        "Logged apart from the loss.",
        group="objective",
    )
    logging_nan_inf_filter: bool = flag(
        False,
        "Leave at False: it hides a loss that is no number and waits for each step.",
        group="faults",
    )
    force_fp16: bool = flag(
        False,
        "Allow --fp16, in which T5's activations overflow from base size on.",
        group="device and speed",
    )
    seed: int = flag(
        42, "Seed of initialisation, dropout, data order and masks; one seed, one run.", group="run"
    )
    plan: bool = flag(
        False,
        "Print parameters, tokens and arithmetic of a step, memory per device under each engine, "
        "and the time of the run, without data and without making the model; then stop.",
        group="plan",
    )
    dry_run: bool = flag(
        False,
        "Look for everything that could go wrong, train two steps, evaluate, predict and save on a "
        "sample, leave nothing behind, say what the whole run will cost, and stop.",
        group="run",
    )
    plan_devices: str = flag(
        "1,8,64", "Comma list of numbers of devices to plan for.", group="plan"
    )
    plan_device: str = flag(
        "H100", f"Kind of device, for its peak in bfloat16: {', '.join(PEAK_FLOPS)}.", group="plan"
    )
    plan_memory: float = flag(80.0, "Memory of a device, GB.", group="plan")
    plan_utilisation: float = flag(
        0.4,
        "Share of the peak that is reached (MFU). 0.4 is what good runs of this size report.",
        group="plan",
    )
    plan_price: float | None = flag(
        None, "Price of a device for an hour. None: no price.", group="plan"
    )
    expect_processes: int | None = flag(
        None,
        "Processes of this run on all nodes; another number is refused at start. None: any.",
        group="faults",
    )


@dataclass
class PreTrainingFlags(TrainingFlags):
    stage = "pre_training"

    output_dir: str = flag(
        "outputs/pre_train", "Folder for the model, checkpoints, scores and the card.", group="run"
    )
    optim: str = flag(
        "muon",
        "Optimizer: t5_adafactor, adamw_rms, muon, schedule_free (this project's), or any of the "
        "Trainer's. Muon had the lowest loss after the same steps "
        "(benchmarks/optimizers_cpu_202611.md).",
        group="optimisation",
    )
    max_steps: str = flag(
        "65536",
        f"Length of the run: {LENGTHS}. -1: by --num_train_epochs. nanoT5's number.",
        group="batch and length",
    )
    per_device_train_batch_size: int = flag(
        16,
        "Examples per device and step: what its memory holds (--plan).",
        group="batch and length",
    )
    per_device_eval_batch_size: int = flag(
        16, "Examples per device in evaluation, which keeps no gradients.", group="batch and length"
    )
    eval_steps: str | None = flag(
        "0.1", f"Between evaluations: {INTERVALS}. None: --logging_steps.", group="evaluation"
    )
    save_steps: str = flag("0.1", f"Between checkpoints: {INTERVALS}.", group="checkpoints")


@dataclass
class FineTuningFlags(TrainingFlags):
    output_dir: str = flag(
        "outputs/fine_tune",
        "Folder for the model, checkpoints, scores, predictions and the card.",
        group="run",
    )
    num_train_epochs: float = flag(
        3.0,
        "Passes over the training rows. Where --max_steps is given, that counts.",
        group="batch and length",
    )
    per_device_train_batch_size: int = flag(
        16,
        "Examples per device and step: what its memory holds (--plan).",
        group="batch and length",
    )
    per_device_eval_batch_size: int = flag(
        64, "Examples per device in evaluation, which keeps no gradients.", group="batch and length"
    )
    eval_strategy: str = flag("epoch", "When to evaluate: no, steps or epoch.", group="evaluation")
    save_strategy: str = flag(
        "epoch", "When to save: as --eval_strategy, to keep the best model.", group="checkpoints"
    )
    load_best_model_at_end: bool = flag(
        True, "Test with, and leave behind, the best checkpoint.", group="evaluation"
    )


@dataclass
class TokenizerArguments(CorpusArguments):
    """Which text the tokenizer is made of, and its size."""

    output_dir: str = flag("my_tokenizer", "Folder to write the tokenizer to.", group="run")
    train_file: str | None = flag(
        None,
        "Text: comma list and globs of .txt, .jsonl, .csv, .tsv, .parquet, plain, .gz or .zst. "
        "None: --dataset_paths alone.",
        group="data",
    )
    vocab_size: int = flag(
        32000,
        "SentencePiece pieces; the sentinels come on top. T5's size; 8192 suits 20 MB of text.",
        group="vocabulary",
    )
    num_sentinels: int = flag(
        100,
        "Tokens <extra_id_0>, <extra_id_1>, ... that stand for hidden spans. T5 has 100; one "
        "example cannot hide more spans.",
        group="vocabulary",
    )
    character_coverage: float = flag(
        0.9995,
        "Share of the characters of the text that get a piece, the rarest become <unk>. Between "
        "0.98 and 1; SentencePiece's default.",
        group="vocabulary",
    )
    max_sample_megabytes: float | None = flag(
        100.0,
        "Megabytes of text to train on, whole documents drawn evenly. None: all. More hardly "
        "changes the pieces and takes memory.",
        group="data",
    )
    seed: int = flag(
        1, "Which documents are drawn if there are more than the sample holds.", group="run"
    )
    num_threads: int = flag(
        16,
        "Threads. Sums of floats depend on it, and with them a few pieces: the default is the same "
        "on every machine, and SentencePiece's.",
        group="vocabulary",
    )

    def __post_init__(self):
        self.require_text()
        if not 0.98 <= self.character_coverage <= 1:
            raise UserError(
                f"--character_coverage {self.character_coverage}: expected a share between 0.98 "
                "and 1."
            )
        if self.max_sample_megabytes is not None and self.max_sample_megabytes <= 0:
            raise UserError(
                f"--max_sample_megabytes {self.max_sample_megabytes}: expected more than 0, or "
                "None for all text."
            )
        for name in ("vocab_size", "num_sentinels", "num_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: expected 1 or more.")


@dataclass
class PmiVocabArguments(CorpusArguments):
    """Which text the phrases are counted in, and how many are kept."""

    output: str = flag("pmi_vocab.txt", "File to write the phrases to, one per line.", group="run")
    train_file: str | None = flag(
        None,
        "Text: comma list and globs of .txt, .jsonl, .csv, .tsv, .parquet, plain, .gz or .zst. "
        "None: --dataset_paths alone.",
        group="data",
    )
    vocab_size: int = flag(
        800_000,
        "Phrases kept: half of 2 words, a quarter of 3, an eighth each of 4 and 5. AI21Labs' size "
        "for 16 GB of text; take 4000 for 5 MB. All frequent ones would hold 'of the'.",
        group="vocabulary",
    )
    min_count: int = flag(
        11, "Phrases seen less often are left out. AI21Labs: over 10.", group="vocabulary"
    )

    def __post_init__(self):
        self.require_text()
        for name in ("vocab_size", "min_count"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: expected 1 or more.")


# What each script parses.
PRE_TRAINING = (PreTrainingModelArguments, PreTrainingDataArguments, PreTrainingFlags)
FINE_TUNING = (FineTuningModelArguments, FineTuningDataArguments, FineTuningFlags)
TOKENIZER = (TokenizerArguments,)
PMI_VOCAB = (PmiVocabArguments,)
PROGRAMS = {
    "pre_train_t5.py": PRE_TRAINING,
    "fine_tune_t5.py": FINE_TUNING,
    "train_tokenizer_t5.py": TOKENIZER,
    "pmi_vocab_t5.py": PMI_VOCAB,
}
