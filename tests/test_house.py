"""Proves that the house is in order: imports go one way, no file is named like a package, main()
fits on a screen, and what is shipped parses."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Every module may import those before it. This is the pipeline.
ORDER = [
    *(
        "cpu_process",
        "constants",
        "errors",
        "terminal_t5",
        "run_scope_t5",
        "recipes_t5",
        "hub",
        "whole_files",
        "readers",
        "installed_docs",
    ),
    "pronouns",
    *("tasks", "noise_masks", "masking_units", "corruption_t5", "objective_mixtures"),
    *("optimizer_t5", "data_collator_t5", "corpora_t5", "metrics"),
    *("word_tokens", "token_files_t5", "windows_t5", "streams_t5", "training_windows_t5"),
    *("task_rows_t5", "mixtures_t5", "train_batches_t5"),
    *(
        "loss_t5",
        "attention_t5",
        "layers_t5",
        "compiled_blocks_t5",
        "flops_t5",
        "plan_t5",
        "evaluation_tables_t5",
        "samples_t5",
    ),
    *(
        "amounts",
        "zero_t5",
        "run_files_t5",
        "arguments_t5",
        "training_arguments_t5",
        "help_t5",
        "flags",
        "launch_t5",
        "lora_t5",
        "model_t5",
        "answers_t5",
        "progress_t5",
    ),
    *("checkpoints_t5", "stop_requests_t5", "watchdog_t5", "loss_watch_t5", "fsdp_t5"),
    *("remote_checkpoints_t5", "read_ahead_t5", "resumable_t5", "trainer_t5"),
    *("predictions", "task_sets_t5", "task_inference_t5"),
    *("run_records_t5", "curves_t5", "model_card_t5", "report", "explore_t5"),
    *("preflight_t5", "rehearsal_t5"),
    *("train_tokenizer_t5", "pmi_vocab_t5", "pre_train_t5", "fine_tune_t5"),
]


def modules() -> dict[str, ast.Module]:
    return {path.stem: ast.parse(path.read_text()) for path in ROOT.glob("*.py")}


def imported_by(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_imports_go_one_way():
    trees = modules()
    assert set(trees) == set(ORDER)
    for name, tree in trees.items():
        own = imported_by(tree) & set(ORDER)
        late = [other for other in own if ORDER.index(other) >= ORDER.index(name)]
        assert not late, f"{name} imports {late}"
    assert not imported_by(trees["constants"])
    assert not imported_by(trees["metrics"]) & {"torch", "transformers"}


@pytest.mark.parametrize("script", ["pre_train_t5", "fine_tune_t5"])
def test_the_process_is_set_before_torch_loads(script):
    imports = [n for n in modules()[script].body if isinstance(n, (ast.Import, ast.ImportFrom))]
    first = [n for n in imports if getattr(n, "module", None) != "__future__"][0]
    assert [alias.name for alias in first.names] == ["cpu_process"]


def test_no_file_is_named_like_a_package():
    taken = set(packages_distributions()) | set(sys.stdlib_module_names)
    assert not set(ORDER) & taken - {"constants"}


@pytest.mark.parametrize("script", ["pre_train_t5", "fine_tune_t5"])
def test_main_can_be_read_in_one_go(script):
    functions = {n.name: n for n in modules()[script].body if isinstance(n, ast.FunctionDef)}
    main = functions["main"]
    assert main.end_lineno - main.lineno < 50


def test_the_lock_and_the_card_name_the_same_packages():
    lock = (ROOT / "requirements.lock").read_text()
    assert "torch==2.13.0" in lock
    assert not re.search(r"https?://|file:|nvidia-", lock)
    packages = ("transformers", "accelerate", "deepspeed", "datasets", "evaluate", "wandb")
    for package in (*packages, "absl-py", "sentencepiece"):
        assert re.search(rf"^{package}==", lock, flags=re.MULTILINE), package
