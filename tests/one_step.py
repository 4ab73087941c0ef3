"""One optimizer step and one evaluation of a tiny T5 in some layout; run by test_trainer_t5.py.

torchrun --nproc_per_node 2 tests/one_step.py TOKENIZER OUT.json BATCH ACCUMULATION
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json  # noqa: E402

import numpy as np  # noqa: E402

import cpu_process  # noqa: E402, F401
from data_collator_t5 import FineTuningCollator  # noqa: E402
from flags import parse_flags  # noqa: E402
from model_t5 import load_tokenizer, make_model  # noqa: E402
from trainer_t5 import T5Trainer  # noqa: E402
from training_arguments_t5 import FineTuningArguments  # noqa: E402

NUM_ROWS, NUM_EVALUATED = 8, 11


class Rows:
    """Rows of very different lengths, so that a mean of means would show."""

    def __init__(self, num_rows: int):
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, key: int) -> dict:
        row = key % self.num_rows
        ids = np.arange(row, row + 2 + 3 * row) % 60 + 3
        return {"input_ids": ids[:9], "labels": ids, "example_index": row}


def tiny_model(tokenizer):
    """A T5 v1.1 of two layers, the same each time."""
    return make_model(
        shape="t5-v1_1-small",
        tokenizer=tokenizer,
        dropout_rate=0.0,
        seed=0,
        config_overrides="d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4",
    )


def one_step(tokenizer_dir: str, *, output_dir: str, batch: int, accumulation: int) -> dict:
    """Loss, gradient norm, evaluation and number of ranks."""
    tokenizer = load_tokenizer(tokenizer_dir)
    (args,) = parse_flags(
        (FineTuningArguments,),
        [
            *("--output_dir", output_dir, "--max_steps", "1", "--logging_steps", "1"),
            *("--per_device_train_batch_size", str(batch), "--per_device_eval_batch_size", "2"),
            *("--gradient_accumulation_steps", str(accumulation), "--max_grad_norm", "1e9"),
            *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end=False"),
            *("--bf16", "False", "--use_cpu", "--optim", "sgd", "--learning_rate", "0"),
            *("--z_loss", "0"),
        ],
    )
    trainer = T5Trainer(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=FineTuningCollator(pad_id=0, start_id=0),
        train_dataset=Rows(NUM_ROWS),
        eval_dataset=Rows(NUM_EVALUATED),
        processing_class=tokenizer,
        generation={"max_new_tokens": 4, "do_sample": False},
        score=lambda dataset, answers: {
            "num_answers": len(answers),
            "num_characters": sum(len(answer.text) for answer in answers),
        },
    )
    metrics = trainer.run()
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return {
        "world_size": args.world_size,
        "loss": first["loss"],
        "grad_norm": first["grad_norm"],
        **{k: v for k, v in metrics.items() if k.startswith("eval_") and "per_second" not in k},
    }


if __name__ == "__main__":
    tokenizer_dir, out, batch, accumulation = sys.argv[1:]
    result = one_step(
        tokenizer_dir,
        output_dir=f"{out}.run",
        batch=int(batch),
        accumulation=int(accumulation),
    )
    path = Path(f"{out}.{result['world_size']}ranks")
    path.write_text(json.dumps(result))
