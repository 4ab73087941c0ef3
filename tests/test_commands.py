"""Proves that every command in the README, the pages of docs/ and the scripts' first lines parses:
the programs exist, the flags are known, the files they name are there; and that the first stages of
docs/walk.md do what they say, typed as they stand there, on another text."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import make_sentences

import fine_tune_t5
import pre_train_t5
import train_tokenizer_t5
from arguments_t5 import PROGRAMS as CLASSES
from flags import parse_flags

ROOT = Path(__file__).resolve().parents[1]
DOCS = [f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))]
SOURCES = ["README.md", "runs/demo.sh", *DOCS, *CLASSES]
PROGRAM = re.compile(
    r"^\s*(?:[A-Z_]+=\S+ )*(?:timeout .*? (?=python))?"
    r"(python|torchrun|accelerate launch|deepspeed)\b.*?((?:sweeps/|benchmarks/)?\w+\.py)\b(.*)$"
)
PLACEHOLDERS = ("my_recipe.yaml", "outputs/german/run.yaml")
MADE_BEFORE = re.compile(r"my_rows/.*\.yaml")  # by the command before it


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
    words = [word for word in words if word != "--config"]
    if program == "pre_train_t5.py" and not any(word.endswith(".yaml") for word in words):
        words += ["--train_file", "some.txt"]
    for word in words:
        if word.endswith((".yaml", ".json")) and not MADE_BEFORE.fullmatch(word):
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


# ---- the walk -----------------------------------------------------------------------------------

TINY = [
    *("--use_cpu", "--bf16", "False", "--max_steps", "2"),
    *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"),
]


def block_of_walk(heading: str) -> str:
    below = (ROOT / "docs" / "walk.md").read_text().split(f"\n{heading}\n", 1)[1]
    return re.search(r"```bash\n(.*?)```", below, flags=re.DOTALL)[1]


def words_of(program: str, block: str) -> list[str]:
    (line,) = [line for line in block.splitlines() if line.startswith(f"python {program}")]
    return shlex.split(line)[2:]


@pytest.mark.skipif(not shutil.which("awk") or not shutil.which("zcat"), reason="no awk or zcat")
def test_the_walk_from_text_to_a_scored_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = {"de": make_sentences(300), "fr": [s.upper() for s in make_sentences(300, seed=1)]}
    for language, sentences in pages.items():
        (tmp_path / language / "man1").mkdir(parents=True)
        with gzip.open(tmp_path / language / "man1" / "a.1.gz", "wt") as file:
            file.write("\n".join([".TH A 1", *(s.replace("the", r"\fBthe\fP") for s in sentences)]))

    def type_shell(block: str) -> None:
        lines = "\n".join(line for line in block.splitlines() if not line.startswith("python"))
        lines = lines.replace("/usr/share/man", str(tmp_path))
        subprocess.run(["bash", "-e", "-c", lines], check=True)

    block = block_of_walk("## 2. A model of your own language")
    type_shell(block)
    assert Path("corpus/german.txt").read_text().split("\n")[:300] == pages["de"]
    words = words_of("train_tokenizer_t5.py", block)
    train_tokenizer_t5.main([*words, "--vocab_size", "116"])
    metrics = pre_train_t5.main([*words_of("pre_train_t5.py", block), *TINY])
    assert metrics["train_steps"] == 2 and Path("outputs/german/config.json").exists()

    block = block_of_walk("## 3. A task of your own")
    type_shell(block)
    rows = {p.stem: p.read_text().splitlines() for p in Path("my_rows/language").glob("*.tsv")}
    assert {lines[0] for lines in rows.values()} == {"sentence\tlanguage"}
    sizes = {split: len(lines) - 1 for split, lines in rows.items()}
    longer = [s for sentences in pages.values() for s in sentences if len(s.split()) > 5]
    assert sum(sizes.values()) == len(longer) and sizes["train"] > 7 * sizes["test"] > 0
    metrics = fine_tune_t5.main([*words_of("fine_tune_t5.py", block), *TINY[:-2]])
    assert 0 <= metrics["test_accuracy"] <= 100
    lines = Path("outputs/language/predictions/language.test.jsonl").read_text().splitlines()
    assert {json.loads(line)["target"] for line in lines} == {"German", "French"}
