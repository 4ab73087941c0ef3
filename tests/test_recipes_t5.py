"""Proves what a recipe means: variables of the environment, included files and which one wins, one
sentence for every mistake, and that run.yaml repeats a run whose recipe had all of these."""

from pathlib import Path

import pytest
import yaml

from arguments_t5 import PRE_TRAINING
from errors import UserError
from flags import parse_flags
from recipes_t5 import literal, read_recipe
from run_files_t5 import require_same_run, write_run_yaml

KNOWN = ["optim", "max_steps", "seed", "run_name", "bf16", "objective_mixture", "hub_token"]


def write(folder: Path, **texts: str) -> Path:
    """The files NAME.yaml of these texts; returns the first."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def read(folder: Path, *, environment: dict | None = None, **texts: str) -> dict[str, object]:
    return read_recipe(write(folder, **texts), known=KNOWN, environment=environment or {})


def mistake(folder: Path, *, environment: dict | None = None, **texts: str) -> str:
    with pytest.raises(UserError) as found:
        read(folder, environment=environment, **texts)
    return str(found.value).replace(f"{folder}/", "")


def test_variables_and_defaults(tmp_path):
    text = "optim: ${OPTIM:muon}\nmax_steps: ${STEPS:100}\nrun_name: ${WHO}-${N:7}\nseed: ${NO:}\n"
    found = read(tmp_path, a=text, environment={"WHO": "ada", "STEPS": "250", "N": ""})
    assert found == {"optim": "muon", "max_steps": 250, "run_name": "ada-7", "seed": None}
    assert list(map(type, found.values())) == [str, int, str, type(None)]


def test_a_variable_is_a_value_and_never_structure(tmp_path):
    environment = {"X": "1\nseed: 666", "Y": "!!python/object/apply:os.system [ls]"}
    found = read(tmp_path, a="run_name: ${X}\noptim: ${Y}\n", environment=environment)
    assert found == {"run_name": environment["X"], "optim": environment["Y"]}


def test_variables_inside_lists_and_quoted_texts(tmp_path):
    text = 'objective_mixture: [{weight: "${W:3}", name: x}]\nseed: "${S:1}"\nrun_name: $${S:1}\n'
    assert read(tmp_path, a=text) == {
        "objective_mixture": [{"weight": "3", "name": "x"}],  # quoted: a text
        "seed": "1",
        "run_name": "${S:1}",
    }


def test_own_keys_win_over_included_ones_and_later_files_over_earlier(tmp_path):
    texts = {
        "a": "include: [b.yaml, parts/c.yaml]\nseed: 1\n",
        "b": "seed: 2\noptim: b\nmax_steps: 2\nbf16: true\n",
        "parts/c": "seed: 3\noptim: c\ninclude: d.yaml\n",
    }
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "d.yaml").write_text("max_steps: 4\noptim: d\n")
    found = read(tmp_path, **texts)
    assert found == {"seed": 1, "optim": "c", "max_steps": 4, "bf16": True}
    assert list(found)[-1] == "seed"


def test_the_last_spelling_of_a_flag_wins(tmp_path):
    base = "optim: adamw_torch\nlearning_rate: 1e-4\n"
    recipe = write(tmp_path, a="optimizer: adamw_rms\ninclude: base.yaml\n", base=base)
    *_, args = parse_flags(PRE_TRAINING, [str(recipe), "--train_file", "x.txt"])
    assert (args.optim, args.learning_rate) == ("adamw_rms", 1e-4)


def test_one_file_may_be_included_on_two_ways(tmp_path):
    texts = {"a": "include: [b.yaml, c.yaml]", "b": "include: d.yaml", "c": "include: d.yaml"}
    assert read(tmp_path, **texts, d="seed: 4") == {"seed": 4}


def test_an_included_path_may_come_from_the_environment(tmp_path):
    found = read(
        tmp_path, a="include: ${SIZE:small}.yaml", big="seed: 9", environment={"SIZE": "big"}
    )
    assert found == {"seed": 9}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "optim: x\nsed: 1\n"}, "a.yaml, line 2: unknown key 'sed'. Did you mean seed?"),
        ({"a": "seed: 1\noptim: x\nseed: 2\n"}, "a.yaml, line 3: seed stands there twice."),
        ({"a": "\nrun_name: ${WHOM}\n"}, "line 2, run_name: the environment variable WHOM is not"),
        ({"a": "seed: ${1x}\n"}, "a.yaml, line 1, seed: ${1x} is neither ${NAME} nor"),
        ({"a": "seed: ${A:${B:1}}\n"}, "with a plain default"),
        (
            {"a": "include: bb.yaml\n", "b": ""},
            "line 1: there is no bb.yaml to include. Did you mean b",
        ),
        ({"a": "include: 3\n"}, "a.yaml, line 1: include is 3, but must be a file or a list"),
        ({"a": "seed: 1\ninclude: []\n"}, "a.yaml, line 2: include is [], but must be"),
        ({"a": "include: b.yaml", "b": "\nsed: 1"}, "b.yaml, line 2: unknown key 'sed'"),
        ({"a": "include: b.yaml", "b": "seed: [1"}, "The recipe b.yaml, line 1, is not valid YAML"),
        ({"a": "run_name: a: b\n"}, "a.yaml, line 1, is not valid YAML: mapping values are not"),
        ({"a": "- seed\n"}, "a.yaml must hold lines `flag: value`"),
        ({"a": "seed: !!python/name:os.system x\n"}, "could not determine a constructor"),
        ({"a": "objective_mixture: &x [*x]\n"}, "a.yaml, line 1, objective_mixture"),
        (
            {"a": "include: b.yaml", "b": "include: c.yaml", "c": "\ninclude: a.yaml"},
            "c.yaml, line 2: a.yaml includes b.yaml includes c.yaml includes a.yaml, which has no",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(tmp_path, texts, message):
    found = mistake(tmp_path, **texts, environment={"WHO": "x"})
    assert message in found and "\n" not in found


def test_all_mistakes_of_a_recipe_are_said_together(tmp_path):
    found = mistake(tmp_path, a="sed: 1\nrun_name: ${NO}\ninclude: b.yaml\n", b="opt: x\n")
    assert found.startswith("3 problems:\n  1. a.yaml, line 1")
    assert "\n  2. a.yaml, line 2" in found and "\n  3. b.yaml, line 1: unknown key 'opt'" in found


def test_a_missing_recipe_names_the_nearest(tmp_path):
    write(tmp_path, small="seed: 1")
    with pytest.raises(UserError, match="smal.yaml cannot be read: .* Did you mean small.yaml?"):
        read_recipe(tmp_path / "smal.yaml", known=KNOWN)


def test_run_yaml_repeats_a_run_of_includes_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret-token")
    monkeypatch.setenv("STEPS", "77")
    recipe = write(
        tmp_path,
        a="include: b.yaml\nrun_name: $${STEPS} of ${STEPS}\nhub_token: ${TOKEN}\n",
        b="max_steps: ${STEPS}\ntrain_file: x.txt\n",
    )
    first = parse_flags(PRE_TRAINING, [str(recipe)])
    assert first[2].run_name == "${STEPS} of 77" and first[2].hub_token == "secret-token"
    write_run_yaml(tmp_path, first[2].given)
    text = (tmp_path / "run.yaml").read_text()
    assert "secret-token" not in text and "include" not in yaml.safe_load(text)
    monkeypatch.setenv("STEPS", "1")
    again = parse_flags(PRE_TRAINING, ["--config", str(tmp_path / "run.yaml")])
    assert again[2].given == first[2].given
    require_same_run(tmp_path, again[2].given)


def test_literal_is_what_a_recipe_reads_back(tmp_path):
    values = {"run_name": "${A} $${B} $x", "objective_mixture": [{"name": "${C}"}], "seed": 3}
    assert read(tmp_path, a=yaml.safe_dump(literal(values))) == values
