"""Proves that the planned memory is what torch's own profiler finds being allocated in a real step,
within 10 %, that a GPU's is counted with its kernels, that parameters are those of the real model,
and that the arithmetic of the engines is the published one."""

import functools
import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

from attention_t5 import registered_attention
from constants import MODEL_SHAPES
from layers_t5 import with_fast_layers
from loss_t5 import answering_with, summed_loss, with_loss_head
from plan_t5 import (
    ENGINES,
    LiveBytes,
    Model,
    gpu_kernels,
    memory_table,
    plan_model,
    state_bytes,
    time_lines,
)

SHAPES = {
    "many activations": ({"d_model": 64, "d_ff": 128, "vocab_size": 256}, (16, 96, 48)),
    "many parameters": ({"d_model": 256, "d_ff": 1024, "vocab_size": 4096}, (2, 16, 8)),
    "large head": ({"d_model": 32, "d_ff": 64, "vocab_size": 8192}, (8, 16, 64)),
}


def config_of(**changes) -> T5Config:
    fields = {"num_layers": 2, "num_heads": 4, "d_kv": 16, "feed_forward_proj": "gated-gelu"}
    fields |= {
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "attn_implementation": registered_attention("auto", use_cpu=True),
        "use_cache": False,
    }
    return T5Config(**(fields | changes))


def plan(config, shape, *, bf16=False, checkpointing=False, use_cpu=True) -> Model:
    return plan_model(
        T5ForConditionalGeneration,
        config,
        num_examples=shape[0],
        input_tokens=shape[1],
        target_tokens=shape[2],
        bf16=bf16,
        optimizer="adamw_torch",
        gradient_checkpointing=checkpointing,
        use_cpu=use_cpu,
    )


def measured(config, shape, *, bf16: bool, checkpointing: bool) -> int:
    """Peak of what the allocator gave out during the second of two real steps, parameters apart."""
    model = with_fast_layers(with_loss_head(T5ForConditionalGeneration(config))).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs, labels = (torch.ones((shape[0], n), dtype=torch.long) for n in shape[1:])

    def step():
        answer = functools.partial(summed_loss, labels=labels, z_loss=1e-4)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), answering_with(model, answer):
            outputs = model(input_ids=inputs, decoder_input_ids=labels)
        outputs.logits[0].backward()
        model.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted(
        (e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()
    ):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("name", "bf16", "checkpointing"),
    [
        ("many activations", False, False),
        ("many activations", True, True),
        ("many parameters", False, False),
        ("large head", True, False),
    ],
)
def test_planned_memory_is_what_the_profiler_finds(name, bf16, checkpointing):
    changes, shape = SHAPES[name]
    config = config_of(**changes)
    model = plan(config, shape, bf16=bf16, checkpointing=checkpointing)
    parameters_and_states = 4 * model.num_parameters + model.state_bytes
    found = parameters_and_states + measured(config, shape, bf16=bf16, checkpointing=checkpointing)
    assert ENGINES["DDP"](model, 1).total == pytest.approx(found, rel=0.1)


def base_gigabytes(attention: str, *, checkpointing=False) -> float:
    """Of T5 v1.1 base with 128 examples at 512/114 in bfloat16 and Adam, on one GPU."""
    own = registered_attention(attention, use_cpu=False)
    changes = {"dropout_rate": 0.0, "attn_implementation": own}
    model = plan_model(
        T5ForConditionalGeneration,
        T5Config(**MODEL_SHAPES["t5-v1_1-base"] | changes),
        num_examples=128,
        input_tokens=512,
        target_tokens=114,
        bf16=True,
        optimizer="adamw_torch",
        gradient_checkpointing=checkpointing,
        use_cpu=False,
        engine="DDP",
    )
    return ENGINES["DDP"](model, 1).total / 1e9


def test_a_gpu_is_planned_with_the_kernels_that_it_runs():
    fused = base_gigabytes("sdpa")
    assert 30 < fused < 50
    assert base_gigabytes("flex") == fused
    assert base_gigabytes("sdpa", checkpointing=True) < fused / 3
    shares = 128 * 12 * (512**2 + 114**2 + 114 * 512) * 2 / 1e9  # of one layer of each kind
    assert base_gigabytes("lean") > fused + 6 * shares


@pytest.mark.parametrize(("use_cpu", "least", "most"), [(True, 3.5, 4.5), (False, 0.5, 1.5)])
def test_scores_are_counted_where_they_are_made(use_cpu, least, most):
    """In tables of all scores of one layer; on a GPU the gradient of the bias alone is one."""
    config = config_of(num_layers=1, d_model=16, d_ff=16, num_heads=4, vocab_size=64)
    config._attn_implementation = registered_attention("sdpa", use_cpu=False)
    short, long = (plan(config, (8, n, 1), use_cpu=use_cpu).plain_bytes for n in (256, 512))
    squares = (long - 2 * short) / (8 * 4 * (512**2 - 2 * 256**2) * 4)
    assert least < squares < most


def test_a_gpus_dropout_keeps_a_byte_for_each_number():
    with FakeTensorMode():
        states = torch.ones(1000, dtype=torch.bfloat16).requires_grad_()
        with LiveBytes([states]) as live, gpu_kernels():
            dropped = torch.nn.Dropout(0.1)(states)
        assert live.now == dropped.nbytes + 1000


def test_the_kernels_are_torchs_own_again():
    own = (functional.scaled_dot_product_attention, functional.dropout)
    with pytest.raises(ZeroDivisionError), gpu_kernels():
        assert functional.dropout is not own[1]
        raise ZeroDivisionError
    assert (functional.scaled_dot_product_attention, functional.dropout) == own


def test_parameters_are_those_of_the_real_model():
    config = config_of(d_model=64, d_ff=128, vocab_size=256)
    real = T5ForConditionalGeneration(config)
    planned = plan(config, (1, 8, 8))
    assert planned.num_parameters == sum(p.numel() for p in real.parameters())
    assert planned.num_block_parameters == sum(
        p.numel() for p in real.decoder.block[0].parameters()
    )
    embeddings = real.shared.weight.numel() + 2 * 64  # one table for all three, two last norms
    assert planned.num_root_parameters == embeddings


@pytest.mark.parametrize("name", ["adamw_torch", "t5_adafactor"])
def test_states_are_those_of_the_real_optimizers(name):
    model = T5ForConditionalGeneration(config_of(d_model=64, d_ff=128, vocab_size=256))
    if name == "adamw_torch":
        optimizer = AdamW(model.parameters())
    else:
        optimizer = Adafactor(model.parameters(), lr=1e-3, relative_step=False)
    ids = torch.ones((1, 4), dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    found = sum(
        value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert state_bytes(name, shapes) == pytest.approx(found, rel=0.01)


SEVEN_BILLION_AND_A_HALF = Model(
    num_parameters=7_500_000_000,
    num_block_parameters=0,
    num_root_parameters=0,
    state_bytes=60_000_000_000,
    is_bf16=True,
    plain_bytes=0,
    shared_bytes=0,
)


@pytest.mark.parametrize(
    ("engine", "gigabytes"),
    [("ZeRO-1", 31.4), ("ZeRO-2", 16.6), ("ZeRO-3", 1.9)],
)
def test_the_shares_are_those_of_the_zero_paper(engine, gigabytes):
    """Figure 1 of Rajbhandari et al. 2020: 7.5 billion parameters on 64 devices, Adam."""
    need = ENGINES[engine](SEVEN_BILLION_AND_A_HALF, 64)
    step_gradients = 4 * 7.5 / 64  # not in the paper's figure
    total = need.parameters + need.gradients + need.states
    assert need.total > total  # buckets, gathered weights
    assert total / 1e9 - step_gradients == pytest.approx(gigabytes, abs=0.06)


def test_offload_moves_the_states_and_loses_nothing():
    here = ENGINES["ZeRO-3"](SEVEN_BILLION_AND_A_HALF, 8)
    there = ENGINES["ZeRO-3 offload"](SEVEN_BILLION_AND_A_HALF, 8)
    assert there.total + there.host == pytest.approx(here.total)
    assert there.states == there.parameters == 0


def test_the_table_says_what_fits():
    table = memory_table(SEVEN_BILLION_AND_A_HALF, devices=[64], device_bytes=40e9)
    fits = {line.split("  ")[0]: line.split()[-1] for line in table.splitlines()[2:]}
    assert fits["DDP"] == "no" and fits["ZeRO-2"] == "yes"


def test_time_is_arithmetic_over_speed():
    (line,) = time_lines(
        step_flops=8e15,
        num_steps=1800,
        most_devices=4,
        devices=[4],
        device_flops=1e15,
        utilisation=0.5,
        price_per_hour=2.0,
    )
    said = "4 devices 4 s/step 2.0 hours 8 device hours 16 of --plan_price"
    assert line.split() == said.split()


def test_the_scripts_print_a_plan_and_leave_nothing(tmp_path, monkeypatch, capsys):
    import fine_tune_t5
    import pre_train_t5

    monkeypatch.chdir(tmp_path)
    words = ["--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False", "--plan"]
    words += ["--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"]
    words += ["--plan_devices", "2,16", "--plan_price", "2"]
    assert pre_train_t5.main([*words, "--train_file", "none.txt", "--max_steps", "1000"]) == {}
    text = capsys.readouterr().out
    assert "16 examples, 8,192 encoder and 1,824 decoder tokens" in text
    assert "ZeRO-3 offload" in text and ", 1,000 steps" in text and "of --plan_price" in text
    words += ["--target_seq_length", "64", "--per_device_train_batch_size", "4"]
    assert fine_tune_t5.main(words) == {}
    assert "4 examples, 2,048 encoder and 256 decoder tokens" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["pre_train_t5", "fine_tune_t5"])
def test_a_plan_is_for_gpus_on_a_machine_without_one_too(script, capsys):
    main = importlib.import_module(script).main
    words = ["--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "True", "--plan"]
    words += ["--config_overrides", "num_layers=2,num_decoder_layers=2", "--plan_devices", "8"]
    words += ["--train_file", "none.txt", "--max_steps", "9"]
    tables = []
    for attention in ("auto", "sdpa", "lean"):
        main([*words, "--attn_implementation", attention])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


def test_a_device_that_is_not_known(tmp_path, monkeypatch):
    import fine_tune_t5
    from errors import UserError

    words = ["--config_name", "t5-v1_1-small", "--use_cpu", "--plan", "--plan_device", "TPU"]
    with pytest.raises(UserError, match="--plan_device TPU.*H100"):
        fine_tune_t5.main(words)
