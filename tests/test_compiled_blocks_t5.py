"""Proves that compiled blocks learn the same and are saved under the same names, and that nothing
but training steps of the usual shape is compiled. The compiler itself is replaced by a counter."""

import functools

import pytest
import torch
from conftest import make_sentences
from test_attention_t5 import make_batch, tiny_model
from tiny_run import give_checkpoint

import pre_train_t5
import trainer_t5
from compiled_blocks_t5 import as_they_are, compile_blocks, pays


class Counter:
    """A backend that takes each graph as it is and counts them."""

    def __init__(self):
        torch._dynamo.reset()
        self.num_graphs = 0
        self.batch_sizes: set[int] = set()

    def __call__(self, graph, inputs):
        self.num_graphs += 1
        self.batch_sizes |= {len(tensor) for tensor in inputs if tensor.dim() == 3}
        return graph


def test_compiled_blocks_learn_the_same_under_the_same_names():
    gradients = []
    counter = Counter()
    for compiled in (False, True):
        model = tiny_model("lean")
        names = list(model.state_dict())
        if compiled:
            compile_blocks(model, backend=counter)
        assert list(model.state_dict()) == names
        model(**make_batch("none"), use_cache=False).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert counter.num_graphs == 4  # the first block of a stack makes the bias, the second takes it
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-4)


def test_as_they_are_nothing_is_compiled():
    counter = Counter()
    model = tiny_model("lean")
    compile_blocks(model, backend=counter)
    with as_they_are(), torch.no_grad():
        model(**make_batch("none"), use_cache=False)
        model.generate(input_ids=make_batch("none")["input_ids"], max_new_tokens=3)
    assert counter.num_graphs == 0


def train_compiled(folder, *words, tokenizer_dir, name, monkeypatch):
    """(metrics, counter) of a run of 3 steps of 6 examples: batches of 4, 2 and 4."""
    counter = Counter()
    counted = functools.partial(compile_blocks, backend=counter)
    monkeypatch.setattr(trainer_t5, "compile_blocks", counted)
    text = folder / "text.txt"
    text.write_text("\n".join(make_sentences(200)) + "\n")
    metrics = pre_train_t5.main(
        [
            *("--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"),
            *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4"),
            *("--train_file", str(text), "--tokenizer_name", str(tokenizer_dir)),
            *("--tokenized_dataset_dir", str(folder / "tokens")),
            *("--output_dir", str(folder / name), "--input_seq_length", "32"),
            *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "3"),
            *("--max_train_examples", "6", "--max_steps", "3", "--num_samples", "1"),
            *("--max_validation_examples", "3", "--compile", "blocks"),
            *words,
        ]
    )
    return metrics, counter


@pytest.mark.slow
def test_a_run_compiles_for_one_shape(tmp_path, tokenizer_dir, monkeypatch):
    where = {"tokenizer_dir": tokenizer_dir, "monkeypatch": monkeypatch}
    metrics, counter = train_compiled(tmp_path, "--save_strategy", "no", name="out", **where)
    # An evaluation of 3 is not compiled; one of the batches of 4 has a mask.
    assert counter.batch_sizes == {4} and counter.num_graphs == 2 * 4
    assert metrics["eval_loss"] > 0


@pytest.mark.slow
def test_a_resumed_run_compiles_for_the_shape_that_it_began_with(
    tmp_path, tokenizer_dir, monkeypatch
):
    """Its own first batch is the odd one of 2 examples."""
    saving = ("--save_steps", "1", "--save_total_limit", "None")
    where = {"tokenizer_dir": tokenizer_dir, "monkeypatch": monkeypatch}
    train_compiled(tmp_path, *saving, name="whole", **where)
    give_checkpoint(tmp_path / "whole", tmp_path / "resumed", step=1)
    _, counter = train_compiled(tmp_path, *saving, name="resumed", **where)
    assert counter.batch_sizes == {4}


def test_a_run_pays_for_compiling_if_it_is_long(monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    small = {"is_cuda": False, "step_flops": 1e9}
    assert not pays(num_steps=1000, **small)
    assert not pays(is_cuda=True, num_steps=999, step_flops=1e15)
    assert pays(is_cuda=True, num_steps=1000, step_flops=1.0)


def test_nothing_is_compiled_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not pays(is_cuda=True, num_steps=10**6, step_flops=1.0)
    assert not pays(is_cuda=False, num_steps=10**6, step_flops=1e15)
