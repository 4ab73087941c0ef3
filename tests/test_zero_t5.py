"""Proves that the shipped DeepSpeed files are complete and that combinations which cannot work are
said before anything is started; tests/cluster runs both stages for real."""

import json
import os
import time
from pathlib import Path

import pytest

from errors import UserError
from zero_t5 import (
    extensions_folder,
    read_zero,
    require_no_stale_build,
    require_possible,
    zero_stage,
)

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(ROOT.glob("zero_stage*_config.json"))
FINE = {"optimizer": "adamw_torch", "is_own": False, "bf16": True, "fp16": False}


def test_four_files_are_shipped():
    names = [path.name.removesuffix("_config.json") for path in SHIPPED]
    stages = ["zero_stage2", "zero_stage2_offload", "zero_stage3", "zero_stage3_offload"]
    assert sorted(names) == stages


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_a_shipped_file_leaves_to_the_trainer_what_the_trainer_knows(path):
    settings = read_zero(str(path))
    assert zero_stage(settings) == int(path.name[10])
    assert "scheduler" not in settings
    for name in ("train_batch_size", "train_micro_batch_size_per_gpu"):
        assert settings[name] == "auto"
    for name in ("gradient_accumulation_steps", "gradient_clipping"):
        assert settings[name] == "auto"
    assert settings["bf16"] == settings["fp16"] == {"enabled": "auto"}
    assert set(settings.get("optimizer", {}).get("params", {}).values()) <= {"auto"}
    devices = {
        settings["zero_optimization"].get(part, {}).get("device")
        for part in ("offload_optimizer", "offload_param")
    }
    assert ("cpu" in devices) == ("offload" in path.name)
    require_possible(str(path), **FINE)


ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


@pytest.mark.parametrize(
    ("settings", "given", "sentence"),
    [
        ({"zero_optimization": {"stage": 4}}, {}, "stage 4: expected 0, 1, 2 or 3"),
        ({}, {"optimizer": "adamw_rms", "is_own": True}, "scales each matrix by its own size"),
        ({}, {"optimizer": "adafactor"}, "scales each matrix by its own size"),
        ({}, {"optimizer": "galore_adamw"}, "one flat vector"),
        ({"optimizer": {"type": "AdamW"}}, {"optimizer": "lion_32bit"}, "would have no effect"),
        ({"scheduler": {"type": "WarmupLR"}}, {}, "--lr_scheduler_type"),
        ({"bf16": {"enabled": False}}, {}, '"enabled": false, but --bf16 is True'),
        ({"fp16": {"enabled": True}}, {}, "but --fp16 is False"),
        ({"zero_optimization": {"stage": 3}}, {}, "saves models without weights"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            {},
            "takes its own Adam only",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_work_gets_one_sentence(tmp_path, settings, given, sentence):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=sentence):
        require_possible(str(path), **(FINE | given))


def test_what_works_is_let_through(tmp_path):
    path = tmp_path / "zero.json"
    for settings in (
        {"zero_optimization": ZERO3},
        {"bf16": {"enabled": True}, "optimizer": {"type": "AdamW"}},
        {"zero_optimization": {"stage": 1}},
        {
            "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
            "zero_force_ds_cpu_optimizer": False,
        },
    ):
        path.write_text(json.dumps(settings))
        require_possible(str(path), **FINE)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "cannot be read"), ("{", "not valid JSON"), ("[1]", "one JSON object")],
)
def test_a_file_that_is_none(tmp_path, content, sentence):
    path = tmp_path / "zero.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_zero(str(path))


@pytest.mark.parametrize(
    ("hours", "owner", "is_refused"),
    [(2, "deepspeed", True), (0, "deepspeed", False), (2, "other", False)],
)
def test_the_lock_of_a_killed_compilation_is_said(tmp_path, hours, owner, is_refused):
    folder = tmp_path / "py311_cpu" / "cpu_adam"
    folder.mkdir(parents=True)
    (folder / "build.ninja").write_text(f"build cpu_adam.o: compile /site-packages/{owner}/a.cpp")
    (folder / "lock").touch()
    then = time.time() - 3600 * hours
    os.utime(folder / "lock", (then, then))
    if not is_refused:
        require_no_stale_build(tmp_path)
        return
    with pytest.raises(UserError, match=f"left 2 h ago.*rm -r {folder}"):
        require_no_stale_build(tmp_path)


def test_torch_compiles_where_the_locks_are_looked_for(monkeypatch):
    from torch.utils.cpp_extension import get_default_build_root

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert str(extensions_folder()) == get_default_build_root()
