"""A recipe file as settings: YAML with variables of the environment and other recipes in it.

    include: parts/t5_v1_1.yaml         its settings first, or those of a list of files
    train_file: ${CORPUS}               a variable that must be set
    max_steps: ${STEPS:10k}             ... or 10k, where it is not set or empty
    run_name: costs $${x}               $${x} is written for ${x} itself

Files are named as seen from the recipe that includes them. Later settings win, a recipe's own over
those it includes. Only plain values are made (numbers, texts, lists, mappings), never objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from errors import Problems, UserError, did_you_mean

INCLUDE = "include"
VARIABLE = re.compile(r"\$?\$\{(?P<name>[^}:]*)(?P<default>:[^}]*)?\}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_recipe(
    path: Path, *, known: Collection[str], environment: Mapping[str, str] = os.environ
) -> dict[str, object]:
    """{key: value} of a recipe and all it includes; every unknown or repeated key is said."""
    problems = Problems()
    settings = _read(path, known=known, environment=environment, chain=(), problems=problems)
    problems.raise_all()
    return settings


def literal(value: object) -> object:
    """The value as a recipe must write it so that no variable is looked up: ${x} as $${x}."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: "$" + found.group(), value)
    if isinstance(value, list):
        return [literal(part) for part in value]
    if isinstance(value, dict):
        return {key: literal(part) for key, part in value.items()}
    return value


def _read(
    path: Path,
    *,
    known: Collection[str],
    environment: Mapping[str, str],
    chain: tuple[Path, ...],
    problems: Problems,
) -> dict[str, object]:
    loader, entries = _entries_of(path)
    settings: dict[str, object] = {}
    included: dict[str, object] = {}
    done: set[int] = set()
    for key, node in entries:
        place = f"{path}, line {node.start_mark.line + 1}"
        with problems:
            if key in settings or (key == INCLUDE and included):
                raise UserError(f"{place}: {key} stands there twice. Take one out.")
            if key != INCLUDE and key not in known:
                raise UserError(
                    f"{place}: unknown key {key!r}.{did_you_mean(key, [*known, INCLUDE])}"
                )
            value = _value_of(
                node, loader, environment=environment, place=f"{place}, {key}", done=done
            )
            if key != INCLUDE:
                settings[key] = value
                continue
            for file in _included_files(value, place=place, folder=path.parent):
                _require_new(file, chain=(*chain, path), place=place)
                part = _read(
                    file,
                    known=known,
                    environment=environment,
                    chain=(*chain, path),
                    problems=problems,
                )
                included = _merged(included, part)
    return _merged(included, settings)


def _merged(first: Mapping[str, object], second: Mapping[str, object]) -> dict[str, object]:
    """Both, the second one's where both have a key; its keys come last.

    The order matters: the last one counts where a key has two spellings.
    """
    return {**{key: first[key] for key in first if key not in second}, **second}


def _entries_of(path: Path) -> tuple[yaml.SafeLoader, list[tuple[str, yaml.Node]]]:
    """The keys of a file with their values as YAML nodes, which know their lines."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except OSError as error:
        raise UserError(
            f"The recipe {path} cannot be read: {error.strerror}.{_near(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"The recipe {path} is not valid YAML: byte {error.start + 1} is not UTF-8."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(
            f"The recipe {path}{_line_of(error)} is not valid YAML: "
            f"{getattr(error, 'problem', None) or error}. Quote a value with ': ', '#' or '{{' in "
            "it."
        ) from error
    if node is None:
        return loader, []
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"The recipe {path} must hold lines `flag: value`.")
    return loader, [(str(key.value), value) for key, value in node.value]


def _near(path: Path) -> str:
    names = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, names)


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}," if mark else ""


def _value_of(
    node: yaml.Node,
    loader: yaml.SafeLoader,
    *,
    environment: Mapping[str, str],
    place: str,
    done: set[int],
) -> object:
    """The plain value of a node, its variables looked up first."""
    _look_up(node, loader, environment=environment, place=place, done=done)
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", None) or error
        raise UserError(
            f"{place}: {reason}. A recipe holds numbers, texts, lists and mappings."
        ) from error


def _look_up(
    node: yaml.Node,
    loader: yaml.SafeLoader,
    *,
    environment: Mapping[str, str],
    place: str,
    done: set[int],
) -> None:
    """Replaces variables in the texts below a node; unquoted ones may become numbers by it.

    An anchored node comes up again where it is named, and may even stand in itself: `done`.
    """
    if id(node) in done:
        return
    done.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        text = VARIABLE.sub(lambda found: _variable(found, environment, place=place), node.value)
        if text != node.value and node.style is None:
            node.tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        node.value = text
    for part in node.value if isinstance(node.value, list) else ():
        for child in part if isinstance(part, tuple) else (part,):
            _look_up(child, loader, environment=environment, place=place, done=done)


def _variable(found: re.Match, environment: Mapping[str, str], *, place: str) -> str:
    if found.group().startswith("$$"):
        return found.group()[1:]
    name, default = found["name"], found["default"]
    if not NAME.fullmatch(name) or "${" in (default or ""):
        raise UserError(
            f"{place}: {found.group()} is neither ${{NAME}} nor ${{NAME:default}} with a plain "
            "default. Write $${ for ${ itself."
        )
    if environment.get(name):
        return environment[name]
    if default is None:
        raise UserError(
            f"{place}: the environment variable {name} is not set."
            f"{did_you_mean(name, environment)} Type export {name}=..., or write a default: "
            f"${{{name}:default}}."
        )
    return default[1:]


def _included_files(value: object, *, place: str, folder: Path) -> list[Path]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{place}: include is {value!r}, but must be a file or a list of files.")
    files = [folder / Path(name).expanduser() for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(f"{place}: there is no {file} to include.{_near(file)}")
    return files


def _require_new(file: Path, *, chain: tuple[Path, ...], place: str) -> None:
    if file.resolve() in {path.resolve() for path in chain}:
        names = " includes ".join(map(str, (*chain, file)))
        raise UserError(f"{place}: {names}, which has no end. Take one of them out.")
