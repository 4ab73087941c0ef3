"""Proves that every command in the README, the recipes and the scripts' first lines parses: the
programs exist, the flags are known, the files they name are there."""

import re
import shlex
from pathlib import Path

import pytest

from arguments_t5 import FINE_TUNING, PRE_TRAINING
from flags import parse_flags
from pmi_vocab_t5 import PmiVocabArguments
from train_tokenizer_t5 import TokenizerArguments

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {
    "pre_train_t5.py": PRE_TRAINING,
    "fine_tune_t5.py": FINE_TUNING,
    "train_tokenizer_t5.py": (TokenizerArguments,),
    "pmi_vocab_t5.py": (PmiVocabArguments,),
}
DOCS = [f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))]
SOURCES = ["README.md", "runs/demo.sh", *DOCS, *CLASSES]
PROGRAM = re.compile(
    r"^\s*(?:[A-Z_]+=\S+ )*(?:timeout .*? (?=python))?"
    r"(python|torchrun|accelerate launch|deepspeed)\b.*?((?:sweeps/|benchmarks/)?\w+\.py)\b(.*)$"
)
PLACEHOLDERS = ("my_recipe.yaml",)
MADE_BEFORE = re.compile(r"outputs/.*\.yaml")  # by the command before it


def commands() -> list[tuple[str, str, str]]:
    found = []
    for source in SOURCES:
        text = re.sub(r"\\{1,2}\n\s*", " ", (ROOT / source).read_text())
        for line in text.splitlines():
            if match := PROGRAM.match(line):
                words = re.split(r"\s{2,}(?!-)|\s#", match.group(3).strip())[0]
                found.append((source, match.group(2), words))
    return found


def test_there_are_commands_to_test():
    assert {"README.md", "runs/demo.sh", "pre_train_t5.py"} <= {
        source for source, _, _ in commands()
    }
    assert len(commands()) > 15


@pytest.mark.parametrize(("source", "program", "words"), commands(), ids=lambda value: value[:60])
def test_a_command_parses(source, program, words):
    assert (ROOT / program).exists()
    if program not in CLASSES:
        return
    words = [word for word in shlex.split(words) if word not in PLACEHOLDERS]
    words = [word for word in words if word != "--config" and not MADE_BEFORE.fullmatch(word)]
    if program == "pre_train_t5.py" and not any(word.endswith(".yaml") for word in words):
        words += ["--train_file", "some.txt"]
    for word in words:
        if word.endswith((".yaml", ".json")):
            assert (ROOT / word).exists()
    if "--deepspeed" in words:  # the JSON is checked in test_house; DeepSpeed itself needs a launch
        place = words.index("--deepspeed")
        assert words[place + 1].startswith("zero_stage")
        del words[place : place + 2]
    parse_flags(CLASSES[program], words)


def test_make_words_of_the_readme_exist():
    words = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert words >= {"demo", "test"}
    assert all(re.search(rf"^{word}:", makefile, flags=re.MULTILINE) for word in words)
