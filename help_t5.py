"""What `--help`, `--help_all` and `--print_completion bash` write, from the flags themselves.

Nothing here loads torch or transformers: help is there before one has read the prompt.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arguments_t5 import GROUPS, TrainingFlags
from errors import UserError

WIDTH = 79  # a terminal of 80 columns wraps nothing
KINDS = {bool: "True|False", int: "INTEGER", float: "NUMBER", str: "TEXT", dict: "JSON"}
HEAD = """\
  python {program} [RECIPE.yaml] [--flag value ...]

A recipe is a YAML file of these flags without their dashes, given first or as
--config RECIPE.yaml; flags on the command line override it. The default stands
behind each flag; None means unset. --help WORD shows the flags about WORD{more}.
"""
MORE = """,
--help_all the Trainer's own too, which are all taken"""


@dataclass(frozen=True)
class Flag:
    """One flag as it is shown."""

    name: str
    kind: str
    default: object
    text: str
    group: str | None  # None: the Trainer's own

    def is_about(self, word: str) -> bool:
        return word.lower() in f"{self.name} {self.group} {self.text}".lower()


# ---- which flags there are ----------------------------------------------------------------------


def flags_of(classes: Sequence[type]) -> list[Flag]:
    """Every flag that these dataclasses declare."""
    shown = []
    for cls in classes:
        kinds = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if not f.init:
                continue
            given = f.metadata.get("help", "")
            text = " ".join(given.replace("%%", "%").split())
            choices = f.metadata.get("choices")
            kind = "|".join(map(str, choices)) if choices else _kind(kinds[f.name])
            default = f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            shown.append(Flag(f.name, kind, default, text, getattr(given, "group", None)))
    return shown


def _kind(hint: object) -> str:
    """What stands for a value: the first type of a union that is not None."""
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
    if typing.get_origin(options[0]) is list:
        return "TEXT ..."
    return KINDS.get(options[0], "TEXT")


@functools.cache
def trainers_flags() -> frozenset[str]:
    """The names of the Trainer's own flags, read in its source: to load it takes seconds."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent
    names = set()
    for file in ("training_args.py", "training_args_seq2seq.py"):
        for node in ast.parse((folder / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("TrainingArguments"):
                names |= {line.target.id for line in node.body if isinstance(line, ast.AnnAssign)}
    return frozenset(names)


def starts_the_trainer(classes: Sequence[type]) -> bool:
    """Whether a program with these flags takes the Trainer's own as well."""
    return any(issubclass(cls, TrainingFlags) for cls in classes)


# ---- help ---------------------------------------------------------------------------------------


def help_text(
    classes: Sequence[type],
    *,
    about: str,
    program: str,
    others: Sequence[type] = (),
    word: str | None = None,
) -> str:
    """All flags by group. `about` is the program's docstring, `others` has the Trainer's flags.

    With a `word`, only the flags that have it in their name, group or text.
    """
    title, _, examples = about.partition("\n")
    own = flags_of(classes)
    names = {flag.name for flag in own}
    rest = [flag for flag in flags_of(others) if flag.name not in names]
    if word is not None:
        own = [flag for flag in own if flag.is_about(word)]
        rest = [flag for flag in rest if flag.is_about(word)]
        if not own and not rest:
            raise UserError(f"--help {word}: no flag is about that. --help lists all flags.")
    takes_more = starts_the_trainer(classes)
    head = HEAD.format(program=program, more=MORE if takes_more else "")
    parts = [title, head] if word is None else []
    for group, (meaning, trainers) in GROUPS.items():
        members = [flag for flag in own if flag.group == group]
        if members:
            parts.append(f"{group.upper()}: {meaning}\n" + "\n".join(map(_entry, members)))
        trainers = [f"--{name}" for name in trainers if name not in names]
        if members and trainers and takes_more and not others and word is None:
            also = f"  Also the Trainer's {', '.join(trainers)}."
            parts[-1] += "\n" + _wrapped(also, indent=4).removeprefix("    ")
    if rest:
        parts.append("THE TRAINER'S OWN\n" + "\n".join(map(_entry, rest)))
    if examples.strip() and word is None:
        parts.append("EXAMPLES\n" + examples.strip("\n"))
    return "\n\n".join(part.rstrip("\n") for part in parts)


def _entry(flag: Flag) -> str:
    """A flag, its kind and default in one line where they fit, its text below."""
    default = "(empty)" if flag.default == "" else str(getattr(flag.default, "value", flag.default))
    lines = [f"  --{flag.name}", f"{flag.kind.replace('|', ' | ')}", f"[{default}]"]
    first = " ".join(lines)
    if len(first) > WIDTH:
        first = lines[0] + "\n" + _wrapped(" ".join(lines[1:]), indent=6)
    return first + ("\n" + _wrapped(flag.text, indent=6) if flag.text else "")


def _wrapped(text: str, *, indent: int) -> str:
    return textwrap.fill(
        text,
        width=WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


# ---- completion ---------------------------------------------------------------------------------

BASH = """\
# Completes the flags of {programs}, and the values of those that have a choice.
# python {first} --print_completion bash > t5_completion.bash; source t5_completion.bash
_t5_flags() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} program flags values
  [ "$word" = = ] && word=
  [ "$before" = = ] && before=${{COMP_WORDS[COMP_CWORD-2]}}
  COMPREPLY=()
  for program in "${{COMP_WORDS[@]:0:COMP_CWORD}}"; do
    case "${{program##*/}} $before" in
{values}
    esac
    case ${{program##*/}} in
{flags}
    esac
  done
  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [ -n "$flags" ] && [ "${{word#--}}" != "$word" ]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  fi
}}
complete -o default -F _t5_flags python python3 torchrun accelerate deepspeed"""


def bash_completion(programs: Mapping[str, Sequence[type]]) -> str:
    """A script for bash that completes the flags of these programs; elsewhere, file names."""
    flags, values = [], []
    for program, classes in programs.items():
        own = flags_of(classes)
        names = {"config", "help", *(flag.name for flag in own)}
        if starts_the_trainer(classes):
            names |= {"help_all", *trainers_flags()}
        words = " ".join(f"--{name}" for name in sorted(names))
        flags.append(f'      {program}) flags="{words}" ;;')
        for flag in own:
            if "|" in flag.kind:
                choices = flag.kind.replace("|", " ")
                values.append(f'      "{program} --{flag.name}") values="{choices}" ;;')
    return BASH.format(
        programs=", ".join(programs),
        first=next(iter(programs)),
        values="\n".join(values),
        flags="\n".join(flags),
    )


# ---- what a command line asks for ---------------------------------------------------------------


def asked_help(words: Sequence[str]) -> tuple[str, str | None] | None:
    """(help, help_all or print_completion; the word after it), where a command line has one."""
    for position, word in enumerate(words):
        name, _, value = word.replace("-", "_").partition("=")
        if name in ("__help", "_h", "__help_all", "__print_completion"):
            following = [w for w in words[position + 1 : position + 2] if not w.startswith("-")]
            kind = {"_h": "help"}.get(name, name.lstrip("_"))
            return kind, value or next(iter(following), None)
    return None
