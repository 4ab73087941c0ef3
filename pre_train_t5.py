"""Pre-trains a T5 from raw text by denoising.

    python pre_train_t5.py recipes/demo_pre_train.yaml               # a laptop
    python pre_train_t5.py --train_file 'corpus/*.jsonl.gz' \\
        --config_name t5-v1_1-small --tokenizer_name my_tokenizer    # one GPU
    torchrun --nproc_per_node 8 pre_train_t5.py my_recipe.yaml       # many GPUs

A recipe is a YAML file of flags; `--help` explains each. Interrupted, the same
command goes on.
"""

from __future__ import annotations

import cpu_process  # isort: skip  # noqa: F401 (before torch)

from arguments_t5 import PRE_TRAINING, PreTrainingDataArguments, PreTrainingModelArguments
from flags import answer_early, changed_settings, parse_flags

if __name__ == "__main__":  # --help and misspelt flags do not wait for torch
    answer_early(PRE_TRAINING, about=__doc__)

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from corpora_t5 import CORPORA, Source, find_sources
from corruption_t5 import Objective, settings_of
from data_collator_t5 import PreTrainingCollator, padding_shares
from errors import UserError, run_program
from launch_t5 import announce_launch
from masking_units import PmiPhrases, Units, Words, read_phrases
from model_card_t5 import write_model_card
from model_t5 import (
    load_tokenizer,
    require_sentinels,
    sentinel_ids,
    shape_of,
    start_model,
    token_bytes,
)
from objective_mixtures import SETTINGS, Mixture, make_mixture, make_objective
from plan_t5 import print_plan
from preflight_t5 import Preflight, check_machine, check_text
from rehearsal_t5 import (
    NUM_STEPS,
    at_most,
    rehearsal_folder,
    rehearse,
    sample_corpus,
    tell_cost,
)
from run_files_t5 import make_output_dir
from run_scope_t5 import one_run
from samples_t5 import FillIns, print_briefly, print_examples
from token_files_t5 import special_ids
from trainer_t5 import T5Trainer
from training_arguments_t5 import PreTrainingArguments
from training_windows_t5 import Windows, load_windows

logger = logging.getLogger(__name__)

NUM_MEASURED_WINDOWS = 128
EXAMPLE_CHARACTERS = 160  # of the text that the card's example gives to the model
MOST_HELD_OUT = 64  # windows per process that a dry run evaluates
FOR_SPANS_ALONE = ("mean_noise_span_length", "random_roll")  # PMI's units are drawn one by one


@one_run
def main(
    argv: Sequence[str] | None = None, *, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, float]:
    """Runs one pre-training and returns its metrics; `callbacks` hear of it as the Trainer's."""
    flags = model_args, data_args, args = parse_flags(PRE_TRAINING, argv, about=__doc__)
    announce_launch(**args.launch())
    if args.plan:
        return show_plan(*flags)
    if args.dry_run:
        return dry_run(argv, *flags)
    check(*flags)
    folder = make_output_dir(args.output_dir)
    tokenizer = load_tokenizer(model_args.tokenizer_name, num_sentinels=model_args.num_sentinels)
    objective = choose_objective(data_args, tokenizer=tokenizer)
    collator = make_collator(objective, tokenizer=tokenizer, seed=args.seed)
    windows = read_corpus(data_args, args, tokenizer=tokenizer, objective=objective)
    if args.process_index == 0:
        print(describe(windows, collator=collator), flush=True)
    if data_args.preprocess_only:
        return {}
    if data_args.show_examples:
        if args.process_index == 0:
            show(windows, collator, tokenizer=tokenizer, num_examples=data_args.show_examples)
        return {}
    args.fit_to_data(num_train_examples=len(windows.training))
    if windows.held_out is None:
        args.eval_strategy, args.do_eval, args.load_best_model_at_end = "no", False, False
    trainer = T5Trainer(
        model=make_model(model_args, args, tokenizer=tokenizer),
        args=args,
        data_collator=collator,
        train_dataset=windows.training,
        eval_dataset=windows.held_out,
        processing_class=tokenizer,
        token_bytes=token_bytes(tokenizer),
        objective_names=component_names(objective),
        sample=make_samples(windows, data_args, args, collator=collator, tokenizer=tokenizer),
        callbacks=[*callbacks],
    )
    metrics = trainer.run()
    if args.process_index == 0:
        write_card(folder, flags, windows, metrics=metrics, trainer=trainer)
    return metrics


def show_plan(
    model_args: PreTrainingModelArguments,
    data_args: PreTrainingDataArguments,
    args: PreTrainingArguments,
) -> dict[str, float]:
    """Prints what the run would need; no metrics come of it."""
    objective = objective_in_outline(data_args)
    if args.process_index == 0:
        print_plan(
            *shape_of(**model_args.settings(), use_cpu=False),
            input_tokens=objective.input_length_tokens,
            target_tokens=objective.target_length_tokens,
            **args.planned(),
        )
    return {}


def check(
    model_args: PreTrainingModelArguments,
    data_args: PreTrainingDataArguments,
    args: PreTrainingArguments,
) -> None:
    """One pass over flags, data and machine; a UserError has all that would stop this run."""
    checks = Preflight()
    if args.local_process_index == 0:
        objective = objective_in_outline(data_args)
        tokenizer = None
        with checks("output"):
            make_output_dir(args.output_dir)
        with checks("length"):
            require_length(data_args, args)
        with checks("phrases"):
            if data_args.pmi_vocab_path is not None:
                read_phrases(data_args.pmi_vocab_path)
        with checks("tokenizer") as found:
            tokenizer = load_tokenizer(
                model_args.tokenizer_name, num_sentinels=model_args.num_sentinels
            )
            found.say(f"{len(tokenizer):,} tokens")
        with checks("sentinels") as found:
            if tokenizer is not None:
                ids = require_sentinels(tokenizer, needed=objective.num_sentinels)
                found.say(f"{objective.num_sentinels} needed of {len(ids)}")
        sources = {"train": (), "validation": ()}
        for role in sources:
            with checks(f"{role} text") as found:
                sources[role] = sources_of(data_args, role=role)
                for source in sources[role]:
                    check_text(found, source, tokenizer=tokenizer, is_streamed=data_args.streaming)
        parts = [part for of_role in sources.values() for s in of_role for part in s.parts]
        check_machine(
            checks,
            model=model_args.settings(),
            num_tokens=None if tokenizer is None else len(tokenizer),
            input_tokens=objective.input_length_tokens,
            target_tokens=objective.target_length_tokens,
            datasets=[part.path for part in parts if part.is_on_hub()],
            makes_model=not (data_args.show_examples or data_args.preprocess_only),
            trains_adapters=False,
            **args.machine(),
        )
    checks.conclude(rank=args.process_index, num_ranks=args.world_size, in_full=args.dry_run)


def require_length(data_args: PreTrainingDataArguments, args: PreTrainingArguments) -> None:
    """Refuses to count epochs of a stream."""
    if data_args.streaming and args.max_steps <= 0:
        raise UserError(
            f"--max_steps {args.max_steps}: a stream has no length that epochs could be counted "
            "in. Give --max_steps with --streaming."
        )


def sources_of(data_args: PreTrainingDataArguments, *, role: str) -> list[Source]:
    """The text that the flags name, for "train" or "validation"."""
    column = data_args.text_column_name
    if role == "validation":
        return find_sources(
            files=data_args.validation_file, text_column_name=column, flag="--validation_file"
        )
    return find_sources(
        files=data_args.train_file,
        dataset_paths=data_args.dataset_paths,
        dataset_names=data_args.dataset_names,
        text_column_name=column,
    )


def dry_run(
    argv: Sequence[str] | None,
    model_args: PreTrainingModelArguments,
    data_args: PreTrainingDataArguments,
    args: PreTrainingArguments,
) -> dict[str, float]:
    """Checks everything, runs in small on a sample of the text, and says what the run will cost."""
    is_main = args.local_process_index == 0
    with rehearsal_folder(args.output_dir, is_main=is_main) as folder:
        check(model_args, data_args, args)
        window_tokens = objective_in_outline(data_args).raw_length_tokens
        share = 0 if data_args.validation_file else data_args.validation_split_percentage / 100
        held_out = min(args.eval_batch_size, MOST_HELD_OUT) * args.world_size
        wanted = NUM_STEPS * args.examples_per_step() + (held_out / share if share else 0)
        samples = sample_corpus(
            {role: sources_of(data_args, role=role) for role in ("train", "validation")},
            folder,
            tokenizer=load_tokenizer(model_args.tokenizer_name),
            enough_tokens={
                "train": round(wanted * window_tokens),
                "validation": held_out * window_tokens,
            },
            is_main=is_main,
        )
        measured = rehearse(
            main,
            argv,
            folder=folder,
            device=args.device,
            changes={
                **{f"{role}_file": sample.files for role, sample in samples.items()},
                "dataset_paths": None,
                "dataset_names": None,
                "tokenized_dataset_dir": folder / "tokens",
                "preprocess_only": False,
                "max_validation_examples": held_out,
                "num_samples": 0,
                **args.rehearsal_settings(),
            },
        )
    training = samples["train"].num_windows(window_tokens)
    if share:
        held_out = None if training is None else round(training * share)
    else:
        held_out = samples["validation"].num_windows(window_tokens)
    training = None if training is None else round(training * (1 - share))
    return tell_cost(
        measured,
        **args.whole_run(num_train_examples=at_most(training, data_args.max_train_examples)),
        eval_examples=at_most(held_out, data_args.max_validation_examples),
        test_examples=None,
        device=args.device,
        prints=args.process_index == 0,
    )


def make_model(
    model_args: PreTrainingModelArguments,
    args: PreTrainingArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> PreTrainedModel:
    """The model that the flags name; random weights get learning rates of their own."""
    if model_args.initialize_from_scratch:
        args.start_from_scratch()
    return start_model(
        **model_args.settings(),
        tokenizer=tokenizer,
        seed=args.seed,
        use_cpu=args.use_cpu,
        initial_attention=model_args.initial_attention,
    )


def make_collator(
    objective: Objective | Mixture, *, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainingCollator:
    """Writes windows as the objective's pairs, in this tokenizer's ids."""
    return PreTrainingCollator(
        objective=objective,
        sentinels=require_sentinels(tokenizer, needed=objective.num_sentinels),
        pad_id=tokenizer.pad_token_id,
        eos_id=tokenizer.eos_token_id,
        start_id=tokenizer.pad_token_id,
        seed=seed,
    )


def objective_in_outline(data_args: PreTrainingDataArguments) -> Objective | Mixture:
    """The objective that the flags name, for its lengths: without a tokenizer, a mode one piece."""
    shape = {
        "input_length_tokens": data_args.input_seq_length,
        "extras": {"units": None, "ordinary_ids": np.arange(1)},
    }
    settings = {key: getattr(data_args, key) for key in SETTINGS if hasattr(data_args, key)}
    components = data_args.components()
    if components is None:
        return make_objective(data_args.objective, settings=settings, **shape)
    return make_mixture(components, defaults=settings, mode_ids=lambda text: [0], **shape)


def choose_objective(
    data_args: PreTrainingDataArguments, *, tokenizer: PreTrainedTokenizerBase
) -> Objective | Mixture:
    """The objective or mixture that the flags name, for this tokenizer's pieces."""
    components = data_args.components()
    settings = {key: getattr(data_args, key) for key in SETTINGS if hasattr(data_args, key)}
    units = find_units(data_args, tokenizer=tokenizer)
    warn_of_ignored_flags(data_args, components=components or [{"objective": data_args.objective}])
    special = {*special_ids(tokenizer), *sentinel_ids(tokenizer)}
    extras = {
        "units": units,
        "ordinary_ids": np.setdiff1d(np.arange(len(tokenizer)), list(special)),
    }
    if components is None:
        return make_objective(
            data_args.objective,
            input_length_tokens=data_args.input_seq_length,
            settings=settings,
            extras=extras,
        )
    vocabulary = tokenizer.get_vocab()
    return make_mixture(
        components,
        input_length_tokens=data_args.input_seq_length,
        defaults=settings,
        mode_ids=lambda text: (
            [vocabulary[text]]
            if text in vocabulary
            else tokenizer(text, add_special_tokens=False).input_ids
        ),
        extras=extras,
    )


def find_units(
    data_args: PreTrainingDataArguments, *, tokenizer: PreTrainedTokenizerBase
) -> Units | None:
    """What --masking lets hide only together; None: nothing."""
    if data_args.masking == "span":
        return None
    words = Words(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    if data_args.masking == "whole_word":
        return Units(starts=words.starts, form_spans=True)
    phrases = PmiPhrases(
        read_phrases(data_args.pmi_vocab_path),
        words=words,
        encode=lambda texts: tokenizer(texts, add_special_tokens=False).input_ids,
    )
    return Units(starts=phrases.starts, form_spans=False)


def warn_of_ignored_flags(data_args: PreTrainingDataArguments, *, components: list[dict]) -> None:
    """Says which flags were given that no component of this run looks at."""
    fields = PreTrainingDataArguments.__dataclass_fields__
    for key, setting in {**SETTINGS, "masking": "units"}.items():
        if key not in fields or getattr(data_args, key) == fields[key].default:
            continue
        takers = [c for c in components if setting in settings_of(c["objective"]) and key not in c]
        one_by_one = data_args.masking == "pmi" and key in FOR_SPANS_ALONE
        if one_by_one or not takers:
            logger.warning(
                "--%s %s has no effect on --objective %s%s.",
                key,
                getattr(data_args, key),
                data_args.objective,
                " with --masking pmi" if one_by_one else "",
            )


def read_corpus(
    data_args: PreTrainingDataArguments,
    args: PreTrainingArguments,
    *,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective | Mixture,
) -> Windows:
    """The corpus that the flags name, in windows that fill the objective's inputs."""
    return load_windows(
        files=data_args.train_file,
        validation_files=data_args.validation_file,
        dataset_paths=data_args.dataset_paths,
        dataset_names=data_args.dataset_names,
        text_column_name=data_args.text_column_name,
        tokenizer=tokenizer,
        cache_dir=Path(data_args.tokenized_dataset_dir),
        window_tokens=objective.raw_length_tokens,
        validation_percentage=data_args.validation_split_percentage,
        max_train_examples=data_args.max_train_examples,
        max_validation_examples=data_args.max_validation_examples,
        mixing_weights=data_args.mixing_weights,
        mixing_temperature=data_args.mixing_temperature,
        mixing_maximum=data_args.mixing_maximum,
        one_document_per_example=data_args.one_document_per_example,
        streaming=data_args.streaming,
        seed=args.seed if args.data_seed is None else args.data_seed,
        num_workers=data_args.preprocessing_num_workers,
    )


def make_samples(
    windows: Windows,
    data_args: PreTrainingDataArguments,
    args: PreTrainingArguments,
    *,
    collator: PreTrainingCollator,
    tokenizer: PreTrainedTokenizerBase,
) -> FillIns | None:
    """Prints a few examples to learn from; returns held-out ones for the model to fill in."""
    num_samples, prints = data_args.num_samples, args.process_index == 0
    if not num_samples:
        return None
    if prints:
        keys = range(min(num_samples, len(windows.training)))
        print_briefly(collator(windows.training.__getitems__(keys)), tokenizer=tokenizer)
    if windows.held_out is None:
        return None
    keys = range(min(num_samples, len(windows.held_out)))
    return FillIns(
        collator(windows.held_out.__getitems__(keys)),
        tokenizer=tokenizer,
        sentinels=collator.sentinels.tolist(),
        prints=prints,
    )


def show(
    windows: Windows,
    collator: PreTrainingCollator,
    *,
    tokenizer: PreTrainedTokenizerBase,
    num_examples: int,
) -> None:
    """Prints the first training examples as they are learnt from."""
    keys = range(min(num_examples, len(windows.training)))
    print_examples(
        collator(windows.training.__getitems__(keys)),
        tokenizer=tokenizer,
        objective_names=component_names(collator.objective),
    )


def describe(windows: Windows, *, collator: PreTrainingCollator) -> str:
    """What is trained on, in numbers."""
    objective = collator.objective
    first = range(min(NUM_MEASURED_WINDOWS, len(windows.training)))
    padding = padding_shares(collator(windows.training.__getitems__(first)))
    lines = []
    if windows.facts is not None:
        lines.append("corpus     " + windows.facts.summary())
        num_training = f"{len(windows.training):,}"
    else:
        lines.append("corpus     a stream: tokenised while it is trained on")
        num_training = "endless"
    lines.append(
        f"windows    {objective.raw_length_tokens} tokens -> {objective.input_length_tokens} in, "
        f"{objective.target_length_tokens} out; {num_training} to train on, "
        f"{len(windows.held_out or ()):,} held out"
    )
    lines += [f"source     {share.summary()}" for share in windows.shares]
    facts = windows.facts or windows.held_out_facts
    lines += [f"warning    {warning}" for warning in (facts.warnings() if facts else ())]
    if windows.held_out is not None:
        lines.append(
            f"entropy    {windows.held_out_entropy_nats:.3f} nats per raw held-out token: what the "
            "best guess without context costs (targets also hold sentinels, which cost less)"
        )
    lines.append(
        f"padding    {padding[0]:.1%} of the inputs, {padding[1]:.1%} of the targets "
        f"(first {len(first)} windows)"
    )
    if isinstance(objective, Mixture):
        shares = zip(objective.names, objective.shares, strict=True)
        lines.append(f"mixture    {', '.join(f'{name} {share:.1%}' for name, share in shares)}")
    return "\n".join(lines)


def component_names(objective: Objective | Mixture) -> tuple[str, ...]:
    """What `objective_index` numbers: the components of a mixture."""
    return objective.names if isinstance(objective, Mixture) else ()


def write_card(
    folder: Path,
    flags: tuple[PreTrainingModelArguments, PreTrainingDataArguments, PreTrainingArguments],
    windows: Windows,
    *,
    metrics: dict[str, float],
    trainer: T5Trainer,
) -> None:
    """The run's model card."""
    model_args, data_args, args = flags
    files, paths = data_args.train_file, data_args.dataset_paths
    corpora = [path.strip() for path in (paths or "").split(",") if path.strip()]
    write_model_card(
        folder,
        title=f"T5 pre-trained on {', '.join(filter(None, (files, paths)))}",
        summary=f"Objective: {data_args.objective}. Loss is in nats per target token, on held-out "
        "text.",
        metrics=metrics,
        log_history=trainer.state.log_history,
        tags=("t5", "pre-training", data_args.objective),
        settings=changed_settings(PRE_TRAINING, args.given),
        data=[windows.facts.summary()] if windows.facts else [],
        datasets=[name for name in corpora if name not in CORPORA and not Path(name).exists()],
        filled_texts=trainer.sample.texts if trainer.sample else (),
        try_it_on=trainer.sample.first_input()[:EXAMPLE_CHARACTERS] if trainer.sample else "",
        base_model=model_args.published_base(),
        language="en" if corpora == ["installed_docs"] and not files else None,
    )


if __name__ == "__main__":
    run_program(main)
