"""Reads a recipe and the command line into dataclasses of arguments, with errors that help.

`parse_flags` is the one way in; which flags a program has, the classes of `arguments_t5` say.
`answer_early` does what needs no parsing, before a program loads torch: help, misspelt names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from amounts import BINARY_PREFIXES, parse_amount, tokens_in_examples
from arguments_t5 import AMOUNTS, PROGRAMS
from errors import (
    Problems,
    UserError,
    did_you_mean,
    end_quietly_when_interrupted,
    exit_codes,
)
from help_t5 import asked_help, bash_completion, help_text, starts_the_trainer, trainers_flags
from recipes_t5 import read_recipe
from run_files_t5 import SECRETS, without_secrets

# Spellings of the original scripts, where their meaning is the same.
ALIASES = {
    "optimizer": "optim",
    "training_accumulation_steps": "gradient_accumulation_steps",
    "pre_training_dataset_paths": "dataset_paths",
    "pre_training_dataset_names": "dataset_names",
    "num_train_examples": "max_train_examples",
    "num_validation_examples": "max_validation_examples",
    "deepspeed_config": "deepspeed",
}


def flag_names(classes: Sequence[type]) -> set[str]:
    """Every flag of a script, the Trainer's own and the old spellings included."""
    names = set(_kinds(classes))
    return names | {alias for alias, name in ALIASES.items() if name in names}


def changed_settings(classes: Sequence[type], given: dict[str, object]) -> dict[str, object]:
    """The settings of a run that differ from the defaults; `output_dir` is no such thing."""
    defaults = {
        f.name: f.default for cls in _complete(classes) for f in dataclasses.fields(cls) if f.init
    }
    return {
        name: value
        for name, value in given.items()
        if name != "output_dir" and value not in (None, "", [], {}, defaults.get(name))
    }


def _kinds(classes: Sequence[type]) -> dict[str, object]:
    """{flag: type} of a script; of those that only the Trainer's class has, the type is not read
    and bool stands for it."""
    kinds = dict.fromkeys(trainers_flags() if starts_the_trainer(classes) else (), bool)
    for cls in classes:
        hints = typing.get_type_hints(cls)
        kinds |= {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
    return kinds


def answer_early(classes: Sequence[type], *, about: str) -> None:
    """What a program does before it loads torch: shows help, refuses a name that nothing has.

    Ends the program in both cases; `about` is its docstring.
    """
    end_quietly_when_interrupted()
    with exit_codes():
        words = sys.argv[1:]
        _answer_questions(classes, words, about=about)
        recipe, words = _split_recipe(words)
        known = _kinds(classes)
        _settings_of(_recipe_words(recipe, known, lists=set()) + words, known)


def _answer_questions(classes: Sequence[type], words: Sequence[str], *, about: str) -> None:
    """Prints what --help and its like ask for, on one rank, and ends the program."""
    asked = asked_help(words)
    if asked is None:
        return
    kind, word = asked
    if kind == "print_completion":
        if word != "bash":
            raise UserError(f"--print_completion {word}: expected bash, the only one there is.")
        text = bash_completion(PROGRAMS)
    else:
        others = _complete(classes) if kind == "help_all" else ()
        program = Path(sys.argv[0]).name
        text = help_text(classes, about=about, program=program, others=others, word=word)
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
    sys.exit(0)


def _complete(classes: Sequence[type]) -> tuple[type, ...]:
    """These classes with the Trainer's own arguments, which take seconds to load."""
    if not starts_the_trainer(classes):
        return tuple(classes)
    from training_arguments_t5 import COMPLETE

    return tuple(COMPLETE.get(cls, cls) for cls in classes)


def _refuse(message: str):
    """In place of argparse's own error, which prints three pages of usage."""
    raise UserError(f"{message} (--help lists all flags.)")


def parse_flags(
    classes: Sequence[type], argv: Sequence[str] | None = None, *, about: str = ""
) -> tuple:
    """One object per class, read from a recipe, if any, and from the command line over it.

    The recipe is `--config FILE.yaml` or the first word. Every object remembers all settings as
    they were given, for `write_run_yaml`. `about` is what --help says of the program.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _answer_questions(classes, words, about=about)
    from transformers import HfArgumentParser  # 1 to 2 s that --help does not wait for

    classes = _complete(classes)
    parser = HfArgumentParser(classes, allow_abbrev=False)
    parser.error = _refuse
    known = _kinds(classes)
    lists = {action.dest for action in parser._actions if action.nargs == "+"}
    recipe, words = _split_recipe(words)
    settings = _settings_of(_recipe_words(recipe, known, lists) + words, known)
    namespace = parser.parse_args(
        [
            word
            for name, values in settings.items()
            for word in _words_of(name, values, known, lists)
        ]
    )
    for name, values in settings.items():
        if values == ["None"] and type(None) in typing.get_args(known[name]):
            setattr(namespace, name, None)
    given = {
        name: without_secrets(value)
        if isinstance(value := getattr(namespace, name), str)
        else value
        for name in known
        if name not in SECRETS
    }
    _count_tokens_as_examples(namespace)
    objects, problems = [], Problems()
    for cls in classes:
        values = {f.name: getattr(namespace, f.name) for f in dataclasses.fields(cls) if f.init}
        with problems:
            objects.append(cls(**values))
            given |= getattr(objects[-1], "chosen", {})
            objects[-1].given = given
    problems.raise_all()
    return tuple(objects)


def _count_tokens_as_examples(namespace: argparse.Namespace) -> None:
    """Amounts in encoder tokens, as T5 counts a batch, in examples of --input_seq_length."""
    windows_are_full = hasattr(namespace, "objective")
    tokens_per_example = namespace.input_seq_length if windows_are_full else None
    batch = {"unit": "examples", "units": ("examples", "tokens"), "prefixes": BINARY_PREFIXES}
    for name in ("global_batch_size", *AMOUNTS):
        text = getattr(namespace, name, None)
        if text is None:
            continue
        amount = parse_amount(
            text, flag=f"--{name}", **(batch if name == "global_batch_size" else {})
        )
        if amount.unit == "tokens":
            found = tokens_in_examples(
                amount, tokens_per_example=tokens_per_example, flag=f"--{name}"
            )
            setattr(namespace, name, f"{max(1, round(found.number))}examples")


def _split_recipe(words: list[str]) -> tuple[Path | None, list[str]]:
    # The deepspeed launcher, and torch.distributed.launch, put a word of their own in front.
    first = 1 if words and words[0].startswith(("--local_rank=", "--local-rank=")) else 0
    if words[first:] and words[first].endswith((".yaml", ".yml")) and words[first][0] != "-":
        return Path(words[first]), words[:first] + words[first + 1 :]
    for position, word in enumerate(words):
        if word == "--config":
            if position + 1 == len(words):
                raise UserError("--config needs a YAML file, as in --config recipes/demo.yaml.")
            return Path(words[position + 1]), words[:position] + words[position + 2 :]
        if word.startswith("--config="):
            return Path(word.partition("=")[2]), words[:position] + words[position + 1 :]
    return None, words


def _recipe_words(recipe: Path | None, known: dict[str, object], lists: set[str]) -> list[str]:
    """A recipe's settings as command-line words, so that both are parsed alike."""
    if recipe is None:
        return []
    settings = read_recipe(
        recipe, known={*known, *(old for old, name in ALIASES.items() if name in known)}
    )
    words = []
    for key, value in settings.items():
        if isinstance(value, list) and key in lists:
            words += [f"--{key}", *map(str, value)] if value else []
        else:
            words.append(f"--{key}={_as_word(value)}")
    return words


def _as_word(value: object) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and any(map(_is_nested, value))):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def _is_nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def _settings_of(words: list[str], known: dict[str, object]) -> dict[str, list[str]]:
    """{flag: its words} in full spelling; the last mention of a flag wins."""
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if not word.startswith("--"):
            if not pairs:
                raise UserError(f"{word!r} is neither a flag nor a recipe (a file named *.yaml).")
            pairs[-1][1].append(word)
            continue
        name, equals, value = word[2:].partition("=")
        pairs.append((name.replace("-", "_"), [value] if equals else []))
    settings: dict[str, list[str]] = {}
    problems = Problems()
    for name, values in pairs:
        name = ALIASES.get(name, name)
        if name.startswith("no_") and known.get(name[3:]) in (bool, bool | None):
            name, values = name[3:], ["False"]
        if name not in known:
            problems.add(f"Unknown flag --{name}.{did_you_mean(name, [*known, *ALIASES])}")
        settings.pop(name, None)
        settings[name] = values
    problems.raise_all()
    return settings


def _words_of(name: str, values: list[str], known: dict[str, object], lists: set[str]) -> list[str]:
    """One setting as argparse takes it; None is left out and set afterwards."""
    kind = known[name]
    if not values and kind in (bool, bool | None):
        return [f"--{name}=True"]
    if not values:
        raise UserError(f"--{name} needs a value.")
    if values == ["None"]:
        return []
    if len(values) > 1 and name not in lists:
        raise UserError(
            f"--{name} takes one value, found {len(values)}: {' '.join(values)}. Quote a value "
            "that has spaces."
        )
    return [f"--{name}", *values] if len(values) > 1 else [f"--{name}={values[0]}"]
