"""Proves that --help teaches every flag of this project's own, at once and in 80 columns: each has
a group and a text that agrees with its default, nothing long is loaded for it or for a misspelt
flag, and bash can complete what is shown."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import arguments_t5
from arguments_t5 import FINE_TUNING, GROUPS, PRE_TRAINING, PROGRAMS
from errors import UserError
from flags import parse_flags
from flops_t5 import PEAK_FLOPS
from help_t5 import bash_completion, flags_of, help_text, trainers_flags
from mixtures_t5 import MIXINGS
from optimizer_t5 import OPTIMIZERS, SCHEDULES
from train_batches_t5 import TRAIN_BATCHINGS

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [(program, flag) for program, classes in PROGRAMS.items() for flag in flags_of(classes)]
LONG = ("torch", "transformers", "datasets", "pandas", "sentencepiece", "deepspeed")
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*(name for name in {long} if name in sys.modules), file=sys.stderr)
"""


def run_script(program: str, *words: str, long=LONG) -> subprocess.CompletedProcess:
    """What a program answers; the last line of its errors names the long modules it loaded."""
    return subprocess.run(
        [sys.executable, "-c", RUN.format(long=long), program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def shown(program: str, capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse_flags(PROGRAMS[program], words, about="What it does.\n\n    an example")
    assert stopped.value.code == 0
    return capsys.readouterr().out


# ---- nothing long is loaded ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "long", "words"),
    [
        ("pre_train_t5.py", "torch", []),
        ("fine_tune_t5.py", "torch", []),
        ("train_tokenizer_t5.py", "tokenizers", ["--output_dir", "out"]),
    ],
)
def test_ctrl_c_while_modules_load_leaves_a_sentence(program, long, words, tmp_path):
    (tmp_path / f"{long}.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, program, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == f"{program}: Interrupted before anything was done.\n"


@pytest.mark.parametrize("program", [*PROGRAMS, "predictions.py"])
def test_help_is_there_before_anything_long_is_loaded(program):
    answer = run_script(program, "--help")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.splitlines()[-1:] == [""], answer.stderr
    assert len(answer.stdout) > 200
    if program in PROGRAMS:
        about = (ROOT / program).read_text().partition('"""')[2]
        assert answer.stdout.startswith(about.partition("\n")[0])
        assert f"    python {program} " in answer.stdout.partition("EXAMPLES")[2]
        assert max(map(len, answer.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("program", "words", "sentence"),
    [
        ("pre_train_t5.py", ["--learning_rat=1"], "Did you mean learning_rate?"),
        ("fine_tune_t5.py", ["--dataloader_num_worker", "1"], "mean dataloader_num_workers?"),
        ("pre_train_t5.py", ["no_such.yaml"], "no_such.yaml cannot be read"),
        ("train_tokenizer_t5.py", ["--vocab_sise=1"], "Did you mean vocab_size?"),
        ("pmi_vocab_t5.py", ["--dataloader_num_workers=1"], "Unknown flag"),
    ],
)
def test_a_mistake_in_a_name_is_said_before_anything_long_is_loaded(program, words, sentence):
    answer = run_script(program, *words)
    assert (answer.returncode, answer.stdout) == (2, "")
    said, loaded = answer.stderr.splitlines()
    assert sentence in said and loaded == ""


def test_only_one_rank_shows_help(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert shown("fine_tune_t5.py", capsys, "--help") == ""


# ---- what it says -------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "flag"), FLAGS, ids=lambda value: getattr(value, "name", ""))
def test_the_text_of_a_flag_agrees_with_its_default(program, flag):
    text = flag.text
    assert flag.group in GROUPS
    assert len(text) > 20 and text[0].isupper() or text.startswith(("auto:", "bad_batch.json"))
    assert text.endswith("."), text
    hints = {k: v for cls in PROGRAMS[program] for k, v in typing.get_type_hints(cls).items()}
    may_be_none = type(None) in typing.get_args(hints[flag.name])
    assert not re.search(r"\bNone:|\bNone, here", text) or may_be_none
    if flag.default is None:
        assert re.search(r"\bNone(:|, here)", text), f"--{flag.name} does not say what None means"
    if said := re.findall(r"(?:[Dd]efault is|by default) (off|on|\d[\w.]*)", text):
        assert said == [{False: "off", True: "on"}.get(flag.default, str(flag.default))]
    if said := re.findall(r"Leave at (\w+)", text):
        assert said == [str(flag.default)]
    if "|" in flag.kind:
        assert str(flag.default) in [*flag.kind.split("|"), "None"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_each_own_flag_once_under_its_group(program, capsys):
    text = shown(program, capsys, "--help")
    names = [flag.name for flag in flags_of(PROGRAMS[program])]
    assert sorted(re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)) == sorted(names)
    groups = re.findall(r"^([A-Z ]+): ", text, flags=re.MULTILINE)
    order = [group.upper() for group in GROUPS]
    assert groups == sorted(groups, key=order.index) and len(groups) > 1
    assert text.startswith("What it does.") and text.endswith("EXAMPLES\n    an example\n")


def test_names_in_texts_are_those_of_the_tables():
    tables = {"optim": OPTIMIZERS, "lr_scheduler_type": SCHEDULES, "plan_device": PEAK_FLOPS}
    choices = {"mixing": MIXINGS, "train_batching": TRAIN_BATCHINGS}
    for _, flag in FLAGS:
        for name in tables.get(flag.name, ()):
            assert name in flag.text, f"--{flag.name}: {name} is not named"
        if flag.name in choices:
            assert flag.kind.split("|") == list(choices[flag.name])
    assert {*tables, *choices} <= {flag.name for _, flag in FLAGS}


def test_help_all_shows_the_trainers_own_too(capsys):
    names = re.findall(r"^  --(\w+)", shown("fine_tune_t5.py", capsys, "--help_all"), re.MULTILINE)
    assert {"gradient_checkpointing", "max_grad_norm", "optim"} < set(names)
    assert set(names) == trainers_flags() | {flag.name for flag in flags_of(FINE_TUNING)}
    assert len(names) == len(set(names))


def test_the_trainers_flags_are_read_right_from_its_source():
    from transformers import Seq2SeqTrainingArguments

    fields = dataclasses.fields(Seq2SeqTrainingArguments)
    assert trainers_flags() == {f.name for f in fields if f.init}
    for _, names in GROUPS.values():
        assert set(names) <= trainers_flags()


def test_help_about_one_word(capsys):
    text = shown("pre_train_t5.py", capsys, "--help", "noise_span")
    assert re.findall(r"^  --(\w+)", text, flags=re.MULTILINE) == ["mean_noise_span_length"]
    assert "EXAMPLES" not in text and text.startswith("OBJECTIVE: ")
    with pytest.raises(UserError, match="--help wombats: no flag is about that"):
        parse_flags(PRE_TRAINING, ["--help=wombats"])


def test_a_flag_without_a_known_group_cannot_be_declared():
    with pytest.raises(AssertionError):
        arguments_t5.flag(1, "A text.", group="modell")
    with pytest.raises(TypeError):
        arguments_t5.flag(1, "A text.")


def test_the_trainers_flags_are_not_offered_to_programs_that_have_none():
    text = help_text(PROGRAMS["pmi_vocab_t5.py"], about="Finds phrases.", program="pmi_vocab_t5.py")
    assert "Trainer" not in text and "--help_all" not in text


# ---- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "pre_train_t5.py", "--mean_n"], ["--mean_noise_span_length"]),
        (["python", "./fine_tune_t5.py", "--dataloader_num"], ["--dataloader_num_workers"]),
        (["torchrun", "pre_train_t5.py", "--objective", "pre"], ["prefix_lm"]),
        (["python", "pre_train_t5.py", "--objective", "=", "pre"], ["prefix_lm"]),
        (["python", "pre_train_t5.py", "--masking", "="], ["span", "whole_word", "pmi"]),
        (["python", "fine_tune_t5.py", "--mean_n"], []),
        (["python", "fine_tune_t5.py", "--data_dir", "tes"], []),
        (["python", "other.py", "--mean_n"], []),
    ],
)
def test_bash_completes_flags_and_choices(words, expected, tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(bash_completion(PROGRAMS))
    line = " ".join(f"'{word}'" for word in words)
    found = subprocess.run(
        ["bash", "-c", f'. "$0"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _t5_flags; '
         'echo "${COMPREPLY[@]}"', script],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert (found.stdout.split(), found.stderr) == (expected, "")


def test_print_completion(capsys):
    assert "complete -o default -F" in shown("pre_train_t5.py", capsys, "--print_completion=bash")
    with pytest.raises(UserError, match="--print_completion fish: expected bash"):
        parse_flags(PRE_TRAINING, ["--print_completion", "fish"])
