"""Proves that each fast attention computes what the library's eager attention does, forward and
backward, with every mask that occurs, in training, evaluation and generation."""

import pytest
import torch
from torch.nn import functional
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from attention_t5 import by_distance, registered_attention
from layers_t5 import with_fast_layers
from train_batches_t5 import attend_within_documents

CLASSES = {
    "t5": (T5Config, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
}
TRAINED = ("lean", "sdpa")  # flex trains on a GPU alone
WAYS = (*TRAINED, "flex")


def tiny_model(attention, *, kind="t5", dropout_rate=0.0, d_kv=4):
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": d_kv, "d_ff": 24, "num_layers": 2, "num_heads": 3}
    config = config_class(
        **(shape | {"vocab_size": 40, "relative_attention_max_distance": 8}),
        decoder_start_token_id=0,
        pad_token_id=0,
        dropout_rate=dropout_rate,
        relative_attention_num_buckets=8,
    )
    config._attn_implementation = registered_attention(attention, use_cpu=True)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name or name.endswith((".q.weight", ".k.weight")):
            torch.nn.init.normal_(parameter, std=0.5)  # so that scores matter
    return model


def make_batch(mask):
    torch.manual_seed(1)
    batch = {
        "input_ids": torch.randint(3, 40, (3, 11)),
        "decoder_input_ids": torch.randint(3, 40, (3, 7)),
    }
    if mask == "padded":
        batch["attention_mask"] = (torch.arange(11) < torch.tensor([[11], [4], [8]])).long()
    if mask == "all ones":
        batch["attention_mask"] = torch.ones((3, 11), dtype=torch.long)
    if mask == "both padded":
        batch["attention_mask"] = (torch.arange(11) < torch.tensor([[11], [4], [8]])).long()
        batch["decoder_attention_mask"] = (torch.arange(7) < torch.tensor([[7], [2], [5]])).long()
    if mask == "one row":
        batch = {name: ids[:1] for name, ids in batch.items()}
    if mask == "packed":
        batch["input_documents"] = torch.tensor([1] * 4 + [2] * 5 + [0] * 2).repeat(3, 1)
        batch["target_documents"] = torch.tensor([1] * 2 + [2] * 3 + [0] * 2).repeat(3, 1)
        batch["input_documents"][1, -2:] = 2  # targets that may look at nothing
    return batch


def run(model, mask, *, autocast=False):
    """(logits, gradients) of one step."""
    if mask == "packed":
        attend_within_documents(model)
    batch = make_batch(mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**batch, use_cache=False).logits
    factors = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    factors *= batch.get("target_documents", torch.ones(logits.shape[:2]))[..., None] > 0
    (logits * factors).sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("mask", ["none", "one row", "all ones", "padded", "both padded", "packed"])
@pytest.mark.parametrize("kind", [*CLASSES])
@pytest.mark.parametrize("attention", TRAINED)
def test_output_and_gradients_equal_eager_s(attention, kind, mask):
    expected, by_eager = run(tiny_model("eager", kind=kind), mask)
    found, gradients = run(tiny_model(attention, kind=kind), mask)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in by_eager.items():
        assert (gradients[name] - gradient).norm() < 1e-4 * gradient.norm(), name
    biases = [name for name in by_eager if "relative_attention_bias" in name]
    assert biases and all(by_eager[name].abs().max() > 1e-3 for name in biases)


@pytest.mark.parametrize("mask", ["none", "padded", "both padded", "packed"])
def test_flex_s_output_equals_eager_s(mask):
    models = [tiny_model(attention) for attention in ("eager", "flex")]
    if mask == "packed":
        for model in models:
            attend_within_documents(model)
    with torch.no_grad():
        expected, found = (model(**make_batch(mask)).logits for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", TRAINED)
@pytest.mark.parametrize("mask", ["none", "padded", "packed"])
def test_bfloat16_is_as_far_from_float32_as_eager_s(attention, mask):
    exact, exact_gradients = run(tiny_model("eager"), mask)
    distances = {}
    for way in ("eager", attention):
        logits, gradients = run(tiny_model(way), mask, autocast=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        far = [((logits - exact).norm() / exact.norm()).item()]
        for name, gradient in exact_gradients.items():
            far.append(((gradients[name] - gradient).norm() / gradient.norm()).item())
        distances[way] = torch.tensor(far)
    assert distances[attention].mean() < 1.4 * distances["eager"].mean()
    assert distances[attention].max() < 2 * distances["eager"].max()


@pytest.mark.parametrize("attention", WAYS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_its_cache_writes_what_eager_does(attention, num_beams):
    texts = []
    for way in ("eager", attention):
        batch = make_batch("padded")
        texts.append(
            tiny_model(way)
            .eval()
            .generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                num_beams=num_beams,
                max_new_tokens=9,
                do_sample=False,
            )
        )
    assert len(set(texts[0].flatten().tolist())) > 2
    assert torch.equal(*texts)


@pytest.mark.parametrize("attention", TRAINED)
def test_several_tokens_after_a_cache_see_what_they_may(attention):
    logits = []
    for way in ("eager", attention):
        model, batch = tiny_model(way).eval(), make_batch("none")
        ids = batch.pop("decoder_input_ids")
        with torch.no_grad():
            first = model(**batch, decoder_input_ids=ids[:, :3], use_cache=True)
            rest = model(
                **batch, decoder_input_ids=ids[:, 3:], past_key_values=first.past_key_values
            )
            whole = model(**batch, decoder_input_ids=ids).logits
        torch.testing.assert_close(rest.logits, whole[:, 3:], rtol=1e-4, atol=1e-4)
        logits.append(rest.logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", TRAINED)
def test_dropout_hides_its_share_and_keeps_the_mean(attention):
    from attention_t5 import OWN

    module = torch.nn.Module()
    module.is_decoder = module.is_causal = False
    query, key = torch.zeros(1, 1, 200, 4), torch.zeros(1, 1, 200, 4)
    value = torch.ones(1, 1, 200, 4, requires_grad=True)
    torch.manual_seed(0)
    output, _ = OWN[attention](module, query, key, value, None, scaling=1.0, dropout=0.25)
    assert output.mean().item() == pytest.approx(1, abs=0.02)
    # each of 200 shares of 1/200 stays with 3/4, grown to 4/3 of itself
    assert output[0, :, 0, 0].var().item() == pytest.approx(0.25 / 0.75 / 200, rel=0.3)
    output.sum().backward()
    assert value.grad.mean().item() == pytest.approx(1, abs=0.05)
    plain, _ = OWN[attention](module, query, key, value, None, scaling=1.0)
    torch.testing.assert_close(plain, torch.ones_like(plain))


def test_lean_dropout_s_gradient_is_autograd_s():
    """With the same numbers drawn, against the plain formula."""
    from attention_t5 import lean_attention

    module = torch.nn.Module()
    module.is_decoder, module.is_causal = True, True
    states = [torch.randn(2, 3, 5, 4, dtype=torch.double, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 3, 5, 5, dtype=torch.double, requires_grad=True)
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.double)
    mask[1, ..., 3:] = -1e30
    torch.manual_seed(3)
    found, _ = lean_attention(module, *states, mask, 1.0, 0.5, bias)
    found.square().sum().backward()
    gradients = [tensor.grad for tensor in (*states, bias)]
    for tensor in (*states, bias):
        tensor.grad = None
    query, key, value = states
    torch.manual_seed(3)
    shares = (query @ key.transpose(2, 3) + bias + mask).softmax(-1)
    expected = (torch.native_dropout(shares, 0.5, True)[0] @ value).transpose(1, 2)
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for gradient, tensor in zip(gradients, (*states, bias), strict=True):
        torch.testing.assert_close(gradient, tensor.grad)


@pytest.mark.parametrize("attention", TRAINED)
def test_activation_checkpointing_draws_the_same_dropout_again(attention):
    gradients = []
    for recomputes in (False, True):
        model = tiny_model(attention, dropout_rate=0.3)
        if recomputes:
            model.gradient_checkpointing_enable()
        run(model, "padded")
        gradients.append([p.grad for p in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept)


def test_one_row_holds_the_bias_of_every_distance():
    model = tiny_model("eager")
    attention = model.decoder.block[0].layer[0].SelfAttention
    table = attention.compute_bias(4, 6)
    row = by_distance(table)
    assert row.shape == (3, 9)
    for query in range(4):
        for key in range(6):
            assert torch.equal(row[:, key - query + 3], table[0, :, query, key])


def test_nothing_of_it_is_saved(tmp_path):
    tiny_model("lean").save_pretrained(tmp_path)
    assert "t5_lean" not in (tmp_path / "config.json").read_text()
    assert (
        T5ForConditionalGeneration.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    )


def test_sdpa_gets_a_bias_as_its_kernels_want_it(monkeypatch):
    """A GPU's memory-efficient kernel takes only tables whose last dimension is contiguous."""
    given = []
    kernel = functional.scaled_dot_product_attention

    def spy(query, key, value, *, attn_mask, **settings):
        given.append(attn_mask)
        return kernel(query, key, value, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    for mask in ("none", "padded"):
        given.clear()
        run(with_fast_layers(tiny_model("sdpa")), mask)
        tables = [table for table in given if table is not None]
        assert len(given) == 6 and len(tables) == (4 if mask == "none" else 6)
        assert all(table.stride(-1) == 1 for table in tables)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("attention", WAYS)
@pytest.mark.parametrize("mask", ["none", "padded", "both padded"])
def test_output_and_gradients_equal_eager_s_on_a_gpu(attention, mask, autocast):
    results = []
    for way in ("eager", attention):
        model = with_fast_layers(tiny_model(way, d_kv=16)).cuda()
        batch = {name: tensor.cuda() for name, tensor in make_batch(mask).items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits = model(**batch, use_cache=False).logits
        logits.square().sum().backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters()}))
    (expected, by_eager), (found, gradients) = results
    most = 5e-2 if autocast else 1e-2
    torch.testing.assert_close(found, expected, rtol=most, atol=most)
    for name, gradient in by_eager.items():
        far = (gradients[name] - gradient).norm() / gradient.norm()
        assert far < most, name
