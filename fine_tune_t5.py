"""Fine-tunes a T5 on a task as text to text, scores it, writes its predictions.

    python fine_tune_t5.py recipes/demo_fine_tune.yaml               # a laptop
    python fine_tune_t5.py --dataset_name mrpc --data_dir my_glue \\
        --model_name_or_path outputs/pre_train                       # one GPU
    accelerate launch fine_tune_t5.py --dataset_name mnli            # many GPUs

A task is an entry of constants.DATASET_VALS, or a YAML file of the same keys
(--task_file).
"""

from __future__ import annotations

import cpu_process  # isort: skip  # noqa: F401 (before torch)

from arguments_t5 import FINE_TUNING, FineTuningDataArguments, FineTuningModelArguments
from flags import answer_early, changed_settings, parse_flags

if __name__ == "__main__":  # --help and misspelt flags do not wait for torch
    answer_early(FINE_TUNING, about=__doc__)

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from answers_t5 import Answer
from constants import ENGLISH_BENCHMARKS
from errors import UserError, did_you_mean, run_program
from launch_t5 import announce_launch
from lora_t5 import describe, require_absolute_steps, with_adapters
from metrics import find_metric
from mixtures_t5 import Mixture, mixing_rates
from model_card_t5 import Sample, Score, write_model_card
from model_t5 import load_tokenizer, shape_of, start_model
from plan_t5 import print_plan
from predictions import SUBMISSIONS, predictions_path, write_predictions
from preflight_t5 import Preflight, RowLengths, check_machine, check_rows
from readers import expand_files, read_rows
from rehearsal_t5 import NUM_STEPS, at_most, rehearsal_folder, rehearse, tell_cost
from run_files_t5 import make_output_dir
from run_scope_t5 import one_run
from samples_t5 import print_answers, print_briefly, print_examples
from task_inference_t5 import answer_rows, is_unlabelled, write_rows
from task_rows_t5 import TaskDataset
from task_sets_t5 import (
    Sources,
    TaskSets,
    answer_with,
    answering_of,
    count_rows,
    find_tasks,
    score_answers,
    score_table,
    summary_of,
    target_tokens,
    task_stems,
)
from tasks import Task, checked_rows
from train_batches_t5 import TaskCollator, attend_within_documents, make_batches
from trainer_t5 import Patience, T5Trainer
from training_arguments_t5 import FineTuningArguments

logger = logging.getLogger(__name__)

NUM_SAMPLES = 6  # predictions shown in the card
# Rows that a dry run arranges in batches, at least: those of one length want some to choose from.
FEWEST_ARRANGED_ROWS = 2048


@one_run
def main(
    argv: Sequence[str] | None = None, *, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, float]:
    """Runs one fine-tuning and returns its metrics; `callbacks` hear of it as the Trainer's."""
    flags = model_args, data_args, args = parse_flags(FINE_TUNING, argv, about=__doc__)
    announce_launch(**args.launch())
    if args.plan:
        return show_plan(model_args, data_args, args)
    if args.dry_run:
        return dry_run(argv, model_args, data_args, args)
    check(model_args, data_args, args)
    folder = make_output_dir(args.output_dir)
    tasks = find_tasks(data_args.benchmark, data_args.dataset_name, task_file=data_args.task_file)
    tokenizer = load_tokenizer(model_args.tokenizer_name)
    if unlabelled_files(data_args, args, tasks=tasks):
        return predict_rows(folder, model_args, data_args, args, task=tasks[0], tokenizer=tokenizer)
    sets = read_sets(data_args, args, tasks=tasks, tokenizer=tokenizer)
    examples = training_examples(sets, data_args, args)
    if args.process_index == 0:
        print("\n".join(task_sets.describe() for task_sets in sets), flush=True)
    if data_args.show_examples:
        show_examples(sets, data_args, args, tokenizer=tokenizer)
        return {}
    require_splits(sets, data_args, args)
    choose_best_by(args, data_args, tasks=tasks)
    training = make_training_batches(examples, data_args, args)
    longest = set_answering(sets, data_args, tokenizer=tokenizer)
    model = make_model(*flags, tokenizer=tokenizer, longest_answer_tokens=longest)
    trainer = T5Trainer(
        model=model,
        args=args,
        data_collator=TaskCollator(pad_id=tokenizer.pad_token_id, start_id=tokenizer.pad_token_id),
        train_dataset=training,
        eval_dataset=evaluation_sets(sets),
        processing_class=tokenizer,
        score=score_answers,
        summarise=functools.partial(summary_of, sets),
        sample=make_samples(sets, data_args, args, tokenizer=tokenizer),
        callbacks=[*callbacks, *([Patience(data_args.patience)] if data_args.patience else ())],
    )
    metrics = trainer.run(
        test_sets={p: data for s in sets for p, role, _, data in s.scored() if role == "test"},
        evaluate_all_checkpoints=data_args.evaluate_all_checkpoints,
        merge_adapters=model_args.lora_merge,
    )
    if args.process_index == 0:
        print_tables(sets, metrics)
        write_answers(folder, sets, trainer.answers)
        write_card(folder, flags, sets, metrics=metrics, trainer=trainer)
    return metrics


def show_plan(
    model_args: FineTuningModelArguments,
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
) -> dict[str, float]:
    """Prints what the run would need with every example as long as may be; gives no metrics."""
    if args.process_index == 0:
        print_plan(
            *shape_of(**model_args.settings(), use_cpu=False),
            input_tokens=data_args.input_seq_length,
            target_tokens=data_args.target_seq_length,
            **args.planned(),
        )
    return {}


# ---- before and instead of a run ----------------------------------------------------------------


def check(
    model_args: FineTuningModelArguments,
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
) -> None:
    """One pass over flags, data and machine; a UserError has all that would stop this run."""
    checks = Preflight()
    if args.local_process_index == 0:
        tasks, tokenizer, trained = [], None, []
        with checks("output"):
            make_output_dir(args.output_dir)
        with checks("task") as found:
            tasks = find_tasks(
                data_args.benchmark, data_args.dataset_name, task_file=data_args.task_file
            )
            found.say(", ".join(map(str, tasks)))
        with checks("tokenizer") as found:
            tokenizer = load_tokenizer(model_args.tokenizer_name)
            found.say(f"{len(tokenizer):,} tokens")
        with checks("adapters"):
            if model_args.lora_r is not None and args.do_train:
                require_absolute_steps(args.optim)
        with checks("best model"):
            if tasks:
                choose_best_by(args, data_args, tasks=tasks)
        with checks("mixing"):
            require_mixture(data_args, tasks=tasks)
        with checks("answers") as found:
            found.say(data_args.eval_with)
            for warning in ranking_warnings(data_args, tasks=tasks):
                found.warn(warning)
        roles, sources = asked_roles(args, tasks=tasks), sources_of(data_args)
        with checks("files"):
            needing = {role: of_role for role, of_role in roles.items() if role != "test"}
            sources.require(tasks, needing=needing)
        for task, stem in zip(tasks, task_stems(tasks), strict=True):
            for role in (role for role in roles if task in roles[role]):
                with checks(f"{stem} {role}" if len(tasks) > 1 else role) as found:
                    lengths = check_rows(
                        found,
                        task,
                        sources=sources,
                        role=role,
                        tokenizer=tokenizer,
                        input_length_tokens=data_args.input_seq_length,
                        target_length_tokens=data_args.target_seq_length,
                    )
                    if role == "train" and lengths is not None:
                        trained.append(lengths)
        longest = RowLengths(*map(max, *trained, trained[0])) if trained else None
        machine = args.machine()
        if data_args.train_batching != "random" and longest is not None:
            machine["examples_per_device"] = longest.num_like_longest(
                machine["examples_per_device"], tokens_per_batch=data_args.tokens_per_batch
            )
        check_machine(
            checks,
            model=model_args.settings(),
            num_tokens=None if tokenizer is None else len(tokenizer),
            input_tokens=longest.input_tokens if longest else data_args.input_seq_length,
            target_tokens=longest.target_tokens if longest else data_args.target_seq_length,
            datasets=sorted(
                {t.hub_path for role in roles for t in roles[role] if sources.is_on_hub(t, role)}
            ),
            makes_model=not data_args.show_examples,
            trains_adapters=model_args.lora_r is not None,
            **machine,
        )
    checks.conclude(rank=args.process_index, num_ranks=args.world_size, in_full=args.dry_run)


def dry_run(
    argv: Sequence[str] | None,
    model_args: FineTuningModelArguments,
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
) -> dict[str, float]:
    """Checks everything, runs in small on some of the rows, and says what the run will cost."""
    fewest = 1 if data_args.train_batching == "random" else FEWEST_ARRANGED_ROWS
    some = {
        "train": max(NUM_STEPS * args.examples_per_step(), fewest),
        "validation": args.eval_batch_size * args.world_size,
        "test": args.eval_batch_size * args.world_size,
    }
    with rehearsal_folder(args.output_dir, is_main=args.local_process_index == 0) as folder:
        check(model_args, data_args, args)
        tasks = find_tasks(
            data_args.benchmark, data_args.dataset_name, task_file=data_args.task_file
        )
        sources = sources_of(data_args)
        num_rows = count_rows(sources, roles=asked_roles(args, tasks=tasks))
        measured = rehearse(
            main,
            argv,
            folder=folder,
            device=args.device,
            changes={
                **{
                    f"max_{role}_examples": at_most(number, sources.most[role])
                    for role, number in some.items()
                },
                "evaluate_all_checkpoints": False,
                "patience": None,
                **args.rehearsal_settings(),
            },
        )
    training = sum(num_rows.get("train", {}).values())
    if data_args.train_batching != "random" and measured.batches_per_epoch is not None:
        sampled = sum(min(number, some["train"]) for number in num_rows["train"].values())
        num_batches = measured.batches_per_epoch * args.world_size * training / sampled
        training = math.ceil(num_batches) * args.train_batch_size
    return tell_cost(
        measured,
        **args.whole_run(num_train_examples=training or None),
        eval_examples=sum(num_rows.get("validation", {}).values()),
        test_examples=sum(num_rows.get("test", {}).values()),
        device=args.device,
        prints=args.process_index == 0,
    )


def require_mixture(data_args: FineTuningDataArguments, *, tasks: Sequence[Task]) -> None:
    """Refuses flags of mixtures where there is one task."""
    if len(tasks) == 1 and (data_args.mixing is not None or data_args.mixing_maximum is not None):
        raise UserError(
            f"--mixing and its flags have no effect on one task, {tasks[0]}. Name several: "
            "--dataset_name all, or sst2,mrpc."
        )


def ranking_warnings(data_args: FineTuningDataArguments, *, tasks: Sequence[Task]) -> Iterator[str]:
    """Which tasks of a mixture cannot be ranked; refuses to rank where none can."""
    wordless = [str(task) for task in tasks if not task.labels]
    if data_args.eval_with != "rank" or not wordless:
        return
    names = ", ".join(wordless)
    if len(wordless) == len(tasks):
        raise UserError(
            f"--eval_with rank scores label words, and {names} has none: use --eval_with generate."
        )
    yield f"--eval_with rank: {names} without label words generates instead."


# ---- rows ---------------------------------------------------------------------------------------


def sources_of(data_args: FineTuningDataArguments) -> Sources:
    """Where the flags say that rows come from."""
    return Sources(
        files={
            "train": data_args.train_file,
            "validation": data_args.validation_file,
            "test": data_args.test_file,
        },
        data_dir=data_args.data_dir,
        most={
            "train": data_args.max_train_examples,
            "validation": data_args.max_validation_examples,
            "test": data_args.max_test_examples,
        },
    )


def asked_roles(args: FineTuningArguments, *, tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """{role: the tasks it is read of}; in a mixture some tasks are evaluated only."""
    asked = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    trained = [task for task in tasks if len(tasks) == 1 or task.num_train_examples != 0]
    return {
        role: trained if role == "train" else list(tasks)
        for role, is_asked in asked.items()
        if is_asked
    }


def read_sets(
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
    *,
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
) -> list[TaskSets]:
    """The splits of each task that the flags ask for."""
    is_mixture = len(tasks) > 1
    roles = asked_roles(args, tasks=tasks)
    sets = [
        TaskSets.read(
            task,
            stem=stem,
            sources=sources_of(data_args),
            roles=[role for role in roles if task in roles[role]],
            tokenizer=tokenizer,
            input_length_tokens=data_args.input_seq_length,
            target_length_tokens=data_args.target_seq_length,
            is_alone=not is_mixture,
        )
        for task, stem in zip(tasks, task_stems(tasks), strict=True)
    ]
    if not any(task_sets.by_name for task_sets in sets):
        names = ", ".join(map(str, tasks))
        raise UserError(f"Nothing to do for task {names}: no split of it was asked for or found.")
    return sets


def training_examples(
    sets: Sequence[TaskSets], data_args: FineTuningDataArguments, args: FineTuningArguments
) -> Dataset | None:
    """The rows of the one task, or the mixture of several."""
    mixing = data_args.mixing or "proportional"
    if len(sets) == 1:
        return sets[0].train
    trained = [task_sets for task_sets in sets if task_sets.train is not None]
    if not trained:
        return None
    sizes = [s.task.num_train_examples or len(s.train) for s in trained]
    rates = mixing_rates(
        sizes,
        mixing=mixing,
        maximum=data_args.mixing_maximum,
        temperature=(data_args.mixing_temperature or 2.0) if mixing == "temperature" else 1.0,
    )
    mixture = Mixture(
        [task_sets.train for task_sets in trained],
        rates=rates,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )
    if args.process_index == 0:
        print(f"mixture    {mixing}, {len(mixture):,} examples an epoch:", flush=True)
        for task_sets, share in zip(trained, mixture.shares, strict=True):
            passes = share / len(task_sets.train)
            print(f"           {task_sets.stem} {share:,} ({passes:.2f} of its rows)", flush=True)
    return mixture


def make_training_batches(
    examples: Dataset | None, data_args: FineTuningDataArguments, args: FineTuningArguments
) -> Dataset | None:
    """The training set in the batches that the flags ask for."""
    if examples is None or data_args.train_batching == "random":
        args.fit_to_data(num_train_examples=len(examples or ()))
        return examples
    batches = make_batches(
        examples,
        batching=data_args.train_batching,
        tokens_per_batch=data_args.tokens_per_batch,
        batch_size=args.per_device_train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )
    args.fit_to_data(num_train_examples=len(batches) * args.per_device_train_batch_size)
    if args.process_index == 0:
        print(
            f"batches    {len(batches):,} {data_args.train_batching} an epoch, up to "
            f"{batches.tokens_per_batch:,} tokens, {len(examples) / len(batches):.1f} examples "
            "each on average",
            flush=True,
        )
    return batches


def evaluation_sets(sets: Sequence[TaskSets]) -> Dataset | dict[str, Dataset] | None:
    """One set, or several by the name their metrics get (mnli_matched, mnli_mismatched)."""
    found = {
        prefix.removeprefix("eval").removeprefix("_"): data
        for task_sets in sets
        for prefix, role, _, data in task_sets.scored()
        if role == "validation"
    }
    return found.get("") if set(found) <= {""} else found


def show_examples(
    sets: Sequence[TaskSets],
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Prints the first rows of each task."""
    collator = TaskCollator(pad_id=tokenizer.pad_token_id, start_id=tokenizer.pad_token_id)
    for first in [next(iter(s.by_name.values())) for s in sets if s.by_name]:
        shown = [first[i] for i in range(min(data_args.show_examples, len(first)))]
        if args.process_index == 0:
            print_examples(collator(shown), tokenizer=tokenizer)


def make_samples(
    sets: Sequence[TaskSets],
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[PreTrainedModel, dict[str, list[Answer]]], None] | None:
    """Prints a few examples to learn from; returns what prints held-out ones with their answers."""
    if not data_args.num_samples or args.process_index != 0:
        return None
    training = next((task_sets.train for task_sets in sets if task_sets.train), None)
    if training:
        collator = TaskCollator(pad_id=tokenizer.pad_token_id, start_id=tokenizer.pad_token_id)
        keys = range(min(data_args.num_samples, len(training)))
        print_briefly(collator([training[key] for key in keys]), tokenizer=tokenizer)

    def show_answers(model: PreTrainedModel, answers: dict[str, list[Answer]]) -> None:
        samples = [sample for s in sets for sample in samples_of(s, answers)]
        shown = [(s.read, s.expected, s.written) for s in samples[: data_args.num_samples]]
        print_answers(shown)

    return show_answers


# ---- what is asked ------------------------------------------------------------------------------


def require_splits(
    sets: Sequence[TaskSets], data_args: FineTuningDataArguments, args: FineTuningArguments
) -> None:
    """Refuses to train without training rows; without held-out ones nothing selects a model."""
    if args.do_train and not any(task_sets.train for task_sets in sets):
        names = ", ".join(str(task_sets.task) for task_sets in sets)
        raise UserError(f"Task {names} has no training split: add --do_train False.")
    if evaluation_sets(sets) is None:
        args.eval_strategy, args.do_eval, args.load_best_model_at_end = "no", False, False
    if data_args.patience and args.eval_strategy == "no":
        raise UserError(
            f"--patience {data_args.patience} counts evaluations, and there are none (--do_eval "
            f"{args.do_eval}, --eval_strategy no). Give a validation set and --eval_strategy "
            "epoch, or leave out --patience."
        )
    if data_args.evaluate_all_checkpoints and not args.do_eval:
        raise UserError(
            "--evaluate_all_checkpoints needs held-out rows: do without --do_eval False."
        )


def choose_best_by(
    args: FineTuningArguments, data_args: FineTuningDataArguments, *, tasks: Sequence[Task]
) -> None:
    """One number selects the best checkpoint: the task's own metric, or the mean over tasks."""
    is_text = data_args.eval_with != "teacher_forcing"
    asked = args.given["metric_for_best_model"]
    if asked is not None:
        known = ["loss"]
        if len(tasks) == 1:
            known += ["token_accuracy", *(tasks[0].metric_names if is_text else ())]
        elif is_text:
            pairs = zip(task_stems(tasks), tasks, strict=True)
            known += ["mean", *(f"{stem}_{name}" for stem, t in pairs for name in t.metric_names)]
        if asked.removeprefix("eval_") not in known:
            raise UserError(
                f"--metric_for_best_model {asked}: {', '.join(map(str, tasks))} has "
                f"{', '.join(known)}.{did_you_mean(asked, known)}"
            )
    elif not is_text:
        args.metric_for_best_model, args.greater_is_better = "eval_loss", False
    elif len(tasks) > 1:
        args.metric_for_best_model, args.greater_is_better = "eval_mean", True
    else:
        name = tasks[0].metric_to_optimize
        args.metric_for_best_model = f"eval_{name}"
        args.greater_is_better = find_metric(name).greater_is_better


def set_answering(
    sets: Sequence[TaskSets],
    data_args: FineTuningDataArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> int | None:
    """Says how each task is answered, and returns the longest answer's tokens.

    In a mixture, a task without label words writes its text where the others are ranked.
    """
    for task_sets in sets:
        answer_with(
            task_sets,
            data_args.eval_with,
            tokenizer=tokenizer,
            most_tokens=data_args.target_seq_length,
            beams=beams_of(data_args),
        )
    lengths = [
        target_tokens(task_sets, tokenizer=tokenizer, most_tokens=data_args.target_seq_length)
        for task_sets in sets
    ]
    return max((length for length in lengths if length), default=None)


def beams_of(data_args: FineTuningDataArguments) -> dict | None:
    """The beam search that the flags ask for; None: greedy."""
    if not data_args.eval_with_beam_search:
        return None
    return {
        "num_beams": data_args.beam_search_num_beams,
        "length_penalty": data_args.beam_search_length_penalty,
    }


def make_model(
    model_args: FineTuningModelArguments,
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
    longest_answer_tokens: int | None = None,
) -> PreTrainedModel:
    """The model that the flags name, with adapters and masks for packed rows where asked.

    `longest_answer_tokens` stays in the trained folder, for whoever loads it.
    """
    has_adapters = model_args.lora_r is not None and args.do_train
    model = start_model(
        **model_args.settings(), tokenizer=tokenizer, seed=args.seed, use_cpu=args.use_cpu
    )
    if data_args.train_batching == "packed":
        attend_within_documents(model)
    if has_adapters:
        model = with_adapters(
            model,
            rank=model_args.lora_r,
            alpha=model_args.lora_alpha,
            dropout_rate=model_args.lora_dropout,
            target_modules=model_args.lora_target_modules,
            seed=args.seed,
        )
        if args.process_index == 0:
            print(describe(model), flush=True)
    if longest_answer_tokens is not None:
        model.generation_config.max_new_tokens = longest_answer_tokens
    return model


# ---- a file without labels ----------------------------------------------------------------------


def unlabelled_files(
    data_args: FineTuningDataArguments, args: FineTuningArguments, *, tasks: Sequence[Task]
) -> list[Path]:
    """The files of --test_file, where they have no label column and nothing else is to be done."""
    is_only = args.do_predict and not args.do_train and not args.do_eval
    if not (is_only and data_args.test_file and len(tasks) == 1) or data_args.show_examples:
        return []
    files = expand_files(data_args.test_file, flag="--test_file")
    unlabelled = [path for path in files if is_unlabelled(tasks[0], path)]
    if unlabelled and len(unlabelled) < len(files):
        raise UserError(
            f"--test_file: {', '.join(map(str, unlabelled))} has no column "
            f"'{tasks[0].label_column_name}' and the other files have. Predict them in runs of "
            "their own."
        )
    if unlabelled and data_args.eval_with == "teacher_forcing":
        raise UserError(
            "--eval_with teacher_forcing gives the loss of targets, and the rows of --test_file "
            "have none. Use --eval_with generate or rank."
        )
    return unlabelled


def predict_rows(
    folder: Path,
    model_args: FineTuningModelArguments,
    data_args: FineTuningDataArguments,
    args: FineTuningArguments,
    *,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, float]:
    """Answers the rows of --test_file in their order; memory does not grow with their number."""
    if args.deepspeed and args.world_size > 1:
        raise UserError(
            "Predicting a file with DeepSpeed takes one process: its ranks would wait for each "
            "other. Leave out --deepspeed, or use one process."
        )
    model = make_model(model_args, data_args, args, tokenizer=tokenizer)
    sets = TaskSets(task, task.name, {})
    answering = answering_of(
        sets,
        data_args.eval_with,
        tokenizer=tokenizer,
        most_tokens=data_args.target_seq_length,
        beams=beams_of(data_args),
        default_tokens=model.generation_config.max_new_tokens,
    )
    trainer = T5Trainer(model=model, args=args, processing_class=tokenizer)
    rows = itertools.chain.from_iterable(
        checked_rows(task, read_rows(path), source=str(path), role="test")
        for path in expand_files(data_args.test_file, flag="--test_file")
    )
    path = predictions_path(folder, task=task.name, split="test")
    turns = {
        "chunk_rows": data_args.predict_chunk_rows,
        "rank": args.process_index,
        "num_ranks": args.world_size,
    }
    num_rows = write_rows(
        answer_rows(
            itertools.islice(rows, data_args.max_test_examples),
            task=task,
            tokenizer=tokenizer,
            answer=functools.partial(trainer.answer_batches, answering=answering),
            input_length_tokens=data_args.input_seq_length,
            batch_size=args.per_device_eval_batch_size,
            **turns,
        ),
        path=path,
        wait=trainer.accelerator.wait_for_everyone,
        **turns,
    )
    if args.process_index == 0:
        print(f"predicted  {num_rows:,} rows -> {path}", flush=True)
    return {"predicted_rows": num_rows}


# ---- what is left -------------------------------------------------------------------------------


def print_tables(sets: Sequence[TaskSets], metrics: dict[str, float]) -> None:
    """The scores of several tasks, one line each."""
    for prefix in ("eval", "test"):
        if table := score_table(sets, metrics, prefix):
            print(table, flush=True)


def write_answers(folder: Path, sets: Sequence[TaskSets], answers: dict[str, list[Answer]]) -> None:
    """predictions/{task}.{split}.jsonl, and each benchmark's submission where it takes one."""
    submissions: dict[str, dict[str, list[dict]]] = {}
    for task_sets in sets:
        task = task_sets.task
        for prefix, role, split, data in task_sets.scored():
            if any(answer.text is None for answer in answers[prefix]):
                continue
            rows = [row_of(data, answer) for answer in answers[prefix]]
            path = predictions_path(folder, task=task_sets.stem, split=split)
            write_predictions(rows, path=path)
            if role == "test":
                submissions.setdefault(task.benchmark, {})[f"{task.name}.{split}"] = rows
    for benchmark, rows_of in submissions.items():
        if benchmark in SUBMISSIONS:
            SUBMISSIONS[benchmark](rows_of, path=folder / "submission" / f"{benchmark}.zip")


def row_of(data: TaskDataset, answer: Answer) -> dict:
    """What the file of predictions says of one row."""
    row, is_hidden = data.rows[answer.example], data.has_hidden_labels
    return {
        "idx": row.get("idx", answer.example),
        "input": data.inputs[answer.example],
        "target": None if is_hidden else data.targets[answer.example],
        "prediction": answer.text,
        "answer": data.task.answer(answer.text, row),
        "label": None if is_hidden else data.task.label(row),
    }


def write_card(
    folder: Path,
    flags: tuple[FineTuningModelArguments, FineTuningDataArguments, FineTuningArguments],
    sets: Sequence[TaskSets],
    *,
    metrics: dict[str, float],
    trainer: T5Trainer,
) -> None:
    """The run's model card."""
    model_args, data_args, args = flags
    tasks = [task_sets.task for task_sets in sets]
    best = tasks[0].metric_to_optimize if len(tasks) == 1 else "the mean over tasks"
    benchmarks = dict.fromkeys(task.benchmark for task in tasks)
    is_published = data_args.data_dir is None and not data_args.train_file
    samples = [sample for s in sets for sample in samples_of(s, trainer.answers)]
    write_model_card(
        folder,
        title=f"T5 fine-tuned on {', '.join(map(str, tasks))}",
        summary=f"Text to text, best checkpoint by {best}. Scores are on text, "
        "0-100; an invalid answer is wrong. Loss is in nats per target token.",
        metrics=metrics,
        log_history=trainer.state.log_history,
        tags=("t5", "fine-tuning", *benchmarks, *(task.name for task in tasks)),
        scores=[score for s in sets for score in named_scores(s, metrics)],
        settings=changed_settings(FINE_TUNING, args.given),
        data=[
            f"{task_sets.task}, {name}: {len(rows):,} rows"
            for task_sets in sets
            for name, rows in task_sets.by_name.items()
        ],
        datasets=[task.hub_path for task in tasks if task.hub_path] if is_published else [],
        samples=samples[:NUM_SAMPLES],
        try_it_on=samples[0].read if samples else "",
        base_model=model_args.published_base(),
        language="en" if set(benchmarks) <= set(ENGLISH_BENCHMARKS) else None,
    )


def named_scores(task_sets: TaskSets, metrics: dict[str, float]) -> Iterator[Score]:
    """The task's scores by what they are scores of."""
    task = task_sets.task
    for prefix, role, split, _ in task_sets.scored():
        for name in task.metric_names:
            if f"{prefix}_{name}" in metrics:
                yield Score(
                    benchmark=task.benchmark,
                    task=task.name + split.removeprefix(role),
                    split=split,
                    metric=name,
                    value=metrics[f"{prefix}_{name}"],
                    hub_path=task.hub_path,
                    hub_name=task.hub_name,
                )


def samples_of(task_sets: TaskSets, answers: dict[str, list[Answer]]) -> list[Sample]:
    """The first held-out rows with what was to be written and what was."""
    for prefix, role, _, data in task_sets.scored():
        first = answers.get(prefix, [])[:NUM_SAMPLES] if role == "validation" else []
        if first and all(answer.text is not None for answer in first):
            rows = [row_of(data, answer) for answer in first]
            return [Sample(r["input"], str(r["target"]), r["prediction"]) for r in rows]
    return []


if __name__ == "__main__":
    run_program(main)
