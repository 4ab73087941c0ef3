"""Proves what a recipe means: variables of the environment, included files and which one wins, one
sentence for every mistake, and that run.yaml repeats a run whose recipe had all of these. And every
shipped recipe parses, says what to expect, and goes through a dry run on a tiny model."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import make_sentences

import fine_tune_t5
import pre_train_t5
from arguments_t5 import FINE_TUNING, PRE_TRAINING, TokenizerArguments
from errors import UserError
from flags import parse_flags
from recipes_t5 import literal, read_recipe
from run_files_t5 import require_same_run, write_run_yaml
from tasks import find_task

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
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


# ---- the shipped ones ---------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """pre_train, fine_tune, tokenizer, or task."""
    kinds = ("pre_train", "fine_tune", "tokenizer")
    return next((kind for kind in kinds if path.stem.endswith(kind)), "task")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    classes = {
        "pre_train": PRE_TRAINING,
        "fine_tune": FINE_TUNING,
        "tokenizer": (TokenizerArguments,),
    }
    if kind_of(path) == "task":
        assert find_task(None, None, task_file=path).metric_names
        return
    words = ["--train_file", "some.txt"] if kind_of(path) == "pre_train" else []
    parse_flags(classes[kind_of(path)], [str(path), *words])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_says_what_to_expect(path):
    head = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(head)
    assert "{" not in text
    if kind_of(path) in ("pre_train", "fine_tune"):
        assert all(f" {word} " in text for word in ("Time", "Memory", "Score")), path
        assert f"recipes/{path.name}" in text


def test_every_part_is_included_by_some_recipe():
    texts = "".join(path.read_text() for path in ROOT.rglob("recipes/**/*.yaml"))
    for part in ROOT.glob("recipes/parts/*.yaml"):
        assert f"include: parts/{part.name}" in texts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tokenizer_dir) -> dict[str, list[str]]:
    """What makes any recipe small: {kind: flags}, with a text and rows of some tasks."""
    folder = tmp_path_factory.mktemp("tiny")
    sentences = make_sentences(240)
    (folder / "text.txt").write_text("\n".join(sentences) + "\n")
    pair = {"sentence1": "a cat", "sentence2": "the cat"}
    rows = {
        "mrpc": {**pair, "label": 1},
        "stsb": {**pair, "label": 2.5},
        "boolq": {"question": "a cat", "passage": "the dog", "label": 0},
        "cb": {"premise": "a cat", "hypothesis": "the dog", "label": 2},
        "squad": {"question": "a?", "context": "the cat", "answers": {"text": ["cat"]}},
        "cnn_dailymail": {"article": "the cat sees a dog", "highlights": "a cat"},
        "wmt16_en_ro": {"translation": {"en": "the cat", "ro": "a cat"}},
        "word_order": {"sentence": "a cat", "label": 1},
    }
    for name, row in rows.items():
        for split in ("train", "validation"):
            (folder / f"{name}.{split}.jsonl").write_text((json.dumps(row) + "\n") * 12)
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("text\tlabel\n" + "a cat\tsport\n" * 12)
    words = ["--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False", "--dry_run"]
    words += ["--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"]
    words += ["--tokenizer_name", str(tokenizer_dir), "--per_device_train_batch_size", "2"]
    words += ["--global_batch_size", "4", "--per_device_eval_batch_size", "4"]
    return {
        "pre_train": [
            *words,
            *("--train_file", str(folder / "text.txt"), "--dataset_paths", "None"),
            *("--dataset_names", "None", "--input_seq_length", "64"),
        ],
        "fine_tune": [*words, "--input_seq_length", "64", "--target_seq_length", "16"],
        "rows": [str(folder)],
    }


SOME_TASKS = {"glue": "mrpc,stsb", "super_glue": "boolq,cb"}
RUNS = [path for path in RECIPES if kind_of(path) in ("pre_train", "fine_tune")]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_shipped_recipe_goes_through_a_dry_run(path, tiny, tmp_path, monkeypatch, capsys):
    (folder,) = tiny["rows"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TRAIN", f"{folder}/train.tsv")
    monkeypatch.setenv("VALIDATION", f"{folder}/dev.tsv")
    words = [str(path), *tiny[kind_of(path)], "--output_dir", str(tmp_path / "out")]
    if kind_of(path) == "pre_train":
        costs = pre_train_t5.main(words)
    else:
        if path.stem != "own_tsv_fine_tune":
            words += ["--data_dir", folder]
        for name, tasks in SOME_TASKS.items():
            words += ["--dataset_name", tasks] * path.stem.startswith(f"{name}_fine")
        costs = fine_tune_t5.main(words)
    assert costs["dry_run_training_seconds"] > 0
    assert "\nrehearsal  2 steps, " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
