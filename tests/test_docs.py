"""Proves that the documentation is true where a machine can tell: links and anchors lead somewhere,
the files, modules, flags and tests that it names exist, every page is found from the README, and
the five tokens of docs/tour.md and the lines of docs/troubleshooting.md do what is said."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from test_house import ORDER, ROOT

from answers_t5 import Answering
from arguments_t5 import FINE_TUNING, PRE_TRAINING
from corruption_t5 import span_corruption
from data_collator_t5 import PreTrainingCollator, WindowBatch
from flags import flag_names
from masking_units import Units
from metrics import METRICS, score
from model_t5 import load_tokenizer, make_model, sentinel_ids
from noise_masks import ExampleRng
from objective_mixtures import MIXTURES, make_mixture
from predictions import write_predictions
from tasks import INVALID, find_task
from token_files_t5 import special_ids
from trainer_t5 import EpochSampler

PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("benchmarks/*.md"))),
]
FLAGS = flag_names(PRE_TRAINING) | flag_names(FINE_TUNING)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def block_after(page: str, heading: str, *, language: str) -> str:
    """The first block of code of this language below a heading."""
    below = text_of(page).split(f"\n{heading}\n", 1)[1]
    return re.search(rf"^```{language}\n(.*?)^```$", below, flags=re.MULTILINE | re.DOTALL)[1]


# ---- links --------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: str) -> list[str]:
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return [*map(slug, headings), *re.findall(r'<a id="([^"]+)"></a>', text_of(page))]


def links_of(page: str) -> list[tuple[str, str]]:
    """(file, anchor) of each link to a file of this project."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            where = (ROOT / page).parent / path if path else ROOT / page
            found.append((str(where.resolve().relative_to(ROOT)), anchor))
    return found


def test_anchors_are_githubs():
    assert slug("run_t5_mlm_flax.py") == "run_t5_mlm_flaxpy"
    assert slug("`legacy=True` or `False`? Tokens change") == "legacytrue-or-false-tokens-change"
    assert slug("A task of your own") == "a-task-of-your-own"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for path, anchor in links_of(page):
        assert (ROOT / path).exists(), path
        assert not anchor or anchor in anchors_of(path), f"{path}#{anchor}"


def test_every_page_is_found_from_the_readme():
    seen, new = set(), {"README.md"}
    while new:
        seen |= new
        found = {path for page in new for path, _ in links_of(page)}
        new = {path for path in found if path.endswith(".md")} - seen
    assert set(PAGES) <= seen


# ---- names --------------------------------------------------------------------------------------


def names_in(module: str) -> set[str]:
    """What a module defines: functions, classes and their methods, constants."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_the_tree_of_the_readme_is_the_tree():
    tree = block_after("README.md", "## The files", language="")
    listed = re.findall(r"\b(\w+)\.py\b", tree)
    assert sorted(listed) == sorted(ORDER), "a module is missing, invented or listed twice"
    for folder in re.findall(r"\b(\w+)/", tree):
        assert (ROOT / folder).is_dir(), folder


def test_modules_and_what_is_in_them_exist():
    """Every `module.name` and `file.py` in backticks, and the pipelines of docs/tour.md."""
    num_names = 0
    for page in PAGES:
        for module, name in re.findall(r"`(\w+)\.(\w+)", prose_of(page)):
            if module in ORDER and name != "py":
                assert name in names_in(module), f"{page}: {module}.{name}"
                num_names += 1
    assert num_names > 20
    tour = text_of("docs/tour.md")
    modules = set(re.findall(r"\b(?!test_)[a-z]\w*_t5\b", tour))
    assert modules <= set(ORDER)
    pipeline = re.search(r"```\n(.*?)```", tour, flags=re.DOTALL)[1]
    assert len(set(re.findall(r"\w+", pipeline)) & set(ORDER)) > 25


def test_files_and_tests_that_are_named_exist():
    files = {path.name for path in ROOT.glob("tests/**/*.py")}
    functions = {
        node.name
        for path in ROOT.glob("tests/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = {
        name for page in PAGES for name in re.findall(r"(?<!-)\btest_\w+(?:\.py)?", prose_of(page))
    }
    assert len(named) > 60
    for name in named - {f"test_{metric}" for metric in METRICS}:
        assert name in functions or name in files or f"{name}.py" in files, name


def test_every_trouble_has_an_anchor_and_a_proof():
    page = text_of("docs/troubleshooting.md")
    troubles = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    anchors = re.findall(r'^<a id="([\w-]+)"></a>\n### ', page, flags=re.MULTILINE)
    assert len(troubles) == len(anchors) == len(set(anchors)) > 30
    for trouble in troubles:
        assert re.search(r"\*test_\w+|\*the rows", trouble), trouble.splitlines()[0]


def test_flags_that_others_are_moved_to_exist():
    """Every flag in the column `here` of docs/migration.md."""
    num_flags = 0
    for line in text_of("docs/migration.md").splitlines():
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == 3 and cells[1] != "here":
            for flag in re.findall(r"--(\w+)", cells[1]):
                assert flag in FLAGS, line
                num_flags += 1
    assert num_flags > 100


# ---- what is drawn ------------------------------------------------------------------------------


def drawing_of(name: str) -> list[str]:
    """The lines of the drawing in docs/objectives.md that begins with this word."""
    blocks = re.findall(r"```text\n(.*?)```", text_of("docs/objectives.md"), flags=re.DOTALL)
    (lines,) = [block.splitlines() for block in blocks if block.split()[0] == name]
    return lines


def spelled(ids) -> str:
    names = {
        **dict(enumerate("abcdef")),
        90: "<0>",
        89: "<1>",
        80: "[NLU]",
        81: "[S2S]",
        82: "[NLG]",
    }
    return " ".join(names[int(number)] for number in ids)


def rng_of(num_examples: int) -> ExampleRng:
    return ExampleRng(seed=1, epochs=np.zeros(num_examples, int), examples=np.arange(num_examples))


@pytest.mark.parametrize(("name", "form_spans"), [("whole_word", True), ("pmi", False)])
def test_units_are_hidden_as_drawn(name, form_spans):
    first, *lines = drawing_of(name)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    parts = [unit.split() for unit in rows["units"].split("|")]
    starts = np.array([[place == 0 for unit in parts for place in range(len(unit))]])
    objective = span_corruption(
        input_length_tokens=64,
        noise_density=float(first.split()[2]) if "mlm_probability" in first else 0.15,
        mean_noise_span_length=3.0,
        units=Units(
            starts=lambda tokens, rng: np.tile(starts, (len(tokens), 1)), form_spans=form_spans
        ),
    )
    tokens = np.tile(np.arange(6), (300, 1))
    masks = [
        " ".join(np.where(mask, "#", ".")) for mask in objective.noise_mask(tokens, rng_of(300))
    ]
    assert rows["mask"] in masks
    assert form_spans is False or set(masks) == {rows["mask"]}
    written = objective.corrupt(tokens, rng=rng_of(300), sentinels=np.array([90, 89, 88]))
    inputs, targets = (side.split()[masks.index(rows["mask"])] for side in written)
    assert (rows["inputs"], rows["targets"]) == (spelled(inputs), spelled(targets))


def test_ul2_is_as_drawn():
    mixture = make_mixture(
        MIXTURES["ul2"],
        input_length_tokens=64,
        defaults={"mlm_probability": 0.15, "mean_noise_span_length": 3.0, "random_roll": False},
        mode_ids=lambda text: [{"[NLU]": 80, "[S2S]": 81, "[NLG]": 82}[text]],
        extras={"units": None, "ordinary_ids": np.arange(6)},
    )
    components = dict(zip(mixture.names, mixture.components, strict=True))
    lines = drawing_of("ul2")[1:]
    assert len(lines) == 3
    tokens, sentinels = np.arange(6)[None], np.array([90, 89])
    for line in lines:
        name, mask, inputs, targets = re.split(r"\s{2,}", line.strip())
        objective = components[name]
        drawn = objective.noise_mask(tokens, rng_of(1))[0]
        assert mask == " ".join(np.where(drawn, "#", "."))
        written = objective.corrupt(tokens, rng=rng_of(1), sentinels=sentinels)
        assert (inputs, targets) == tuple(spelled(side.ids) for side in written)


def test_the_five_tokens_of_the_tour():
    heading = "## A step of pre-training, with five tokens"
    drawing = block_after("docs/tour.md", heading, language="text")
    letters = {11: "a", 12: "b", 13: "c", 14: "d", 15: "e", 99: "<0>", 98: "<1>", 0: "<pad>"}
    letters |= {1: "</s>"}

    def drawn(label: str) -> str:
        return re.search(rf"{label} +(.*)", drawing)[1]

    def written(ids) -> str:
        return " ".join(letters[int(number)] for number in ids)

    order = EpochSampler(4, seed=1)
    order.set_epoch(2)
    keys = list(order)
    assert drawn("order of epoch 2").startswith(" ".join(str(key % 4) for key in keys))
    assert f"keys {' '.join(map(str, keys))}" in drawing
    epoch, window = divmod(keys[0], 4)
    assert drawn(f"key {keys[0]}") == f"epoch {epoch}, window {window}: a b c d e"

    tokens = np.array([[11, 12, 13, 14, 15]])
    objective = span_corruption(
        input_length_tokens=6, noise_density=0.4, mean_noise_span_length=1.0
    )
    assert objective.raw_length_tokens == 5
    key = {"epochs": np.array([epoch]), "examples": np.array([window])}
    mask = objective.noise_mask(tokens, ExampleRng(seed=1, **key))
    assert drawn("random_spans_mask +mask") == " ".join(np.where(mask[0], "#", "."))
    rng = ExampleRng(seed=1, **key)
    inputs, targets = objective.corrupt(tokens, rng=rng, sentinels=np.array([99, 98]))
    assert (drawn("inputs"), drawn("targets")) == (written(inputs.ids), written(targets.ids))
    collator = PreTrainingCollator(
        objective=objective, sentinels=[99, 98], pad_id=0, eos_id=1, start_id=0, seed=1
    )
    batch = collator(WindowBatch(tokens, **key))
    for name in ("input_ids", "labels", "decoder_input_ids"):
        assert re.search(rf"\b{name} +(.*)", drawing)[1] == written(batch[name][0])


def test_the_row_of_the_tour(tmp_path):
    heading = "## A step of fine-tuning, with one row"
    drawing = block_after("docs/tour.md", heading, language="text")
    row = {"sentence": "it works", "label": 1, "idx": 0}
    assert '{"sentence": "it works", "label": 1, "idx": 0}' in drawing
    task = find_task("glue", "sst2")
    text, target = task.input_text(row), task.target_text(row)
    assert re.search(r"Task.input_text +(.*)", drawing)[1] == text
    assert re.search(r"Task.target_text +(.*)", drawing)[1] == target
    assert task.answer(target, row) == 1 and task.answer("good", row) == INVALID
    scores = score(["accuracy"], [1], [task.answer(target, row)])
    assert re.search(r"score +(.*)", drawing)[1] == str(scores).replace("'", '"')
    line = {"idx": 0, "input": text, "target": target, "prediction": target, "answer": 1}
    path = write_predictions([{**line, "label": 1}], path=tmp_path / "sst2.test.jsonl")
    first = re.search(r"write_predictions +(.*?), \.\.\.}", drawing)[1]
    start, end = first.split(', "prediction"')
    assert path.read_text().startswith(start) and f'"prediction"{end}' in path.read_text()
    assert Answering(generation={"max_new_tokens": 3}).words is None


def test_added_whitespace_is_kept(tokenizer_dir, tmp_path, monkeypatch):
    """The lines of docs/troubleshooting.md, on another tokenizer than T5's."""
    monkeypatch.chdir(tmp_path)
    page = text_of("docs/troubleshooting.md")
    code = re.search(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)[1]
    plain, text = load_tokenizer(str(tokenizer_dir)), "the cat\n\tsees  a\n{dog}"
    assert plain.decode(plain(text, add_special_tokens=False).input_ids) != text
    assert "google/t5-v1_1-base" in code
    exec(compile(code.replace("google/t5-v1_1-base", str(tokenizer_dir)), "page", "exec"), {})

    tokenizer = load_tokenizer("my_t5_tokenizer")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    kept = tokenizer.decode(ids)
    assert [kept.count(c) for c in "\n\t{}"] == [text.count(c) for c in "\n\t{}"]
    assert tokenizer.unk_token_id not in ids and "  " in kept
    assert sentinel_ids(tokenizer) == sentinel_ids(plain)
    assert not set(tokenizer.convert_tokens_to_ids(["\n", "{"])) & set(special_ids(tokenizer))
    model = make_model(
        shape="t5-v1_1-small",
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=1,
        config_overrides="d_model=16,d_kv=4,d_ff=16,num_layers=1,num_heads=4",
    )
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)


def test_paths_are_of_this_project():
    for page in PAGES:
        for path in re.findall(
            r"`((?:recipes|runs|sweeps|tests|benchmarks|docs)/[\w./-]+)`", prose_of(page)
        ):
            assert (ROOT / path).exists() or not Path(path).suffix, f"{page}: {path}"
