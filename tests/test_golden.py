"""Proves that a change which should not change the loss does not: ten steps of span corruption
against the series in golden/. `make golden` is the only way to change it, and the commit says why.
"""

import json
from pathlib import Path

import pytest
from conftest import make_sentences

import pre_train_t5

GOLDEN = Path(__file__).with_name("golden") / "span_corruption.json"


def losses_of_ten_steps(folder: Path, *, tokenizer_dir: Path) -> list[float]:
    text = folder / "text.txt"
    text.write_text("\n".join(make_sentences(300)) + "\n")
    pre_train_t5.main(
        [
            *("--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"),
            *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4"),
            *("--train_file", str(text), "--tokenizer_name", str(tokenizer_dir)),
            *("--tokenized_dataset_dir", str(folder / "tokens")),
            *("--output_dir", str(folder / "out"), "--input_seq_length", "48"),
            *("--per_device_train_batch_size", "4", "--max_steps", "10", "--logging_steps", "1"),
            *("--eval_strategy", "no", "--save_strategy", "no"),
            *(
                "--initial_attention",
                "random",
                "--optim",
                "adamw_rms",
                "--learning_rate",
                "0.02",
                "--warmup_steps",
                "0.1",
            ),
            *("--lr_scheduler_type", "cosine"),
        ]
    )
    card = json.loads((folder / "out" / "log_history.json").read_text())
    return [entry["loss"] for entry in card if "loss" in entry]


def test_the_loss_series_is_unchanged(tmp_path, tokenizer_dir, request):
    losses = losses_of_ten_steps(tmp_path, tokenizer_dir=tokenizer_dir)
    assert len(losses) == 10 and losses[-1] < losses[0]
    if request.config.getoption("--update_golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps([round(loss, 6) for loss in losses], indent=0) + "\n")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)
