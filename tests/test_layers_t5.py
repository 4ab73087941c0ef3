"""Proves that norms, feed-forward layers, activation and position biases compute what the library's
do, forward and backward, in every model of the family, and change nothing that is saved."""

import copy

import pytest
import torch
from test_attention_t5 import CLASSES, make_batch, tiny_model
from transformers.activations import ACT2FN
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense, T5LayerNorm

from layers_t5 import FastNorm, _RmsNorm, with_fast_layers


def norms():
    plain = T5LayerNorm(12)
    torch.nn.init.normal_(plain.weight)
    return plain, with_fast_layers(copy.deepcopy(plain))


def test_the_norm_and_its_gradients_are_the_library_s():
    torch.manual_seed(0)
    results = []
    for norm in norms():
        states = torch.randn((2, 5, 12), generator=torch.Generator().manual_seed(1)) * 3
        states.requires_grad_()
        output = norm(states)
        output.square().sum().backward()
        results.append((output, states.grad, norm.weight.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_gives_what_the_next_layer_would_have_copied(dtype):
    torch.manual_seed(0)
    plain, fast = norms()
    states = torch.randn(2, 5, 12).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(states).bfloat16(), fast(states)
    assert found.dtype == torch.bfloat16
    assert (found != expected).float().mean() < 0.02  # where rounding was close to a tie
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


def test_weights_in_bfloat16_give_bfloat16():
    assert norms()[1].bfloat16()(torch.randn(2, 12)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [*CLASSES])
def test_a_model_computes_and_learns_the_same(kind):
    plain = tiny_model("eager", kind=kind)
    fast = with_fast_layers(copy.deepcopy(plain))
    assert sum(isinstance(m, FastNorm) for m in fast.modules()) == 2 * 2 + 2 * 3 + 2
    assert fast.state_dict().keys() == plain.state_dict().keys()
    results = []
    for model in (plain, fast):
        logits = model(**make_batch("padded"), use_cache=False).logits
        logits.square().sum().backward()
        results.append((logits, [p.grad for p in model.parameters()]))
    (expected, by_plain), (found, by_fast) = results
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for ours, other in zip(by_fast, by_plain, strict=True):
        assert (ours - other).norm() < 1e-4 * other.norm()


def test_the_norm_s_gradient_is_that_of_its_formula():
    torch.manual_seed(0)
    states, weight = (torch.randn(size, dtype=torch.double, requires_grad=True)
                      for size in ((2, 3, 5), (5,)))  # fmt: skip
    assert torch.autograd.gradcheck(_RmsNorm.apply, (states, weight, 1e-6, torch.double))


@pytest.mark.parametrize(
    ("is_decoder", "queries", "keys", "seen"),
    [(False, 6, 6, 0), (False, 4, 9, 0), (True, 7, 7, 0), (True, 1, 9, 8), (True, 2, 9, 7)],
)
def test_position_biases_and_their_gradient_are_the_library_s(is_decoder, queries, keys, seen):
    torch.manual_seed(0)
    config = T5Config(relative_attention_max_distance=8, relative_attention_num_buckets=8)
    config.is_decoder = is_decoder
    plain = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    fast = with_fast_layers(copy.deepcopy(plain))
    factors = torch.randn(1, config.num_heads, queries, keys)
    tables = [m.compute_bias(queries, keys, past_seen_tokens=seen) for m in (plain, fast)]
    assert torch.equal(*tables) and tables[0].std() > 0.1
    assert tables[1].is_contiguous() and not tables[0].is_contiguous()
    for table in tables:
        (table * factors).sum().backward()
    torch.testing.assert_close(
        fast.relative_attention_bias.weight.grad, plain.relative_attention_bias.weight.grad
    )


def gated_layers():
    plain = T5DenseGatedActDense(T5Config(d_model=8, d_ff=12, feed_forward_proj="gated-gelu"))
    return plain.eval(), with_fast_layers(copy.deepcopy(plain)).eval()


def test_under_autocast_the_gated_layer_s_states_stay_in_bfloat16():
    torch.manual_seed(0)
    plain, fast = gated_layers()
    states = torch.randn(2, 3, 8).bfloat16()
    seen = []
    for layer in (plain, fast):
        layer.wo.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(states), plain(states), rtol=2e-2, atol=1e-3)
    assert seen == [torch.bfloat16, torch.float32]


def test_a_last_product_kept_in_float32_gets_float32():
    torch.manual_seed(0)
    states = torch.randn(2, 3, 8).bfloat16()
    outputs = []
    for layer in gated_layers():
        layer.bfloat16().wo.float()
        outputs.append(layer(states))
    assert outputs[1].dtype == torch.float32
    torch.testing.assert_close(*outputs, rtol=2e-2, atol=1e-2)


def test_the_activation_is_the_library_s():
    inputs = torch.linspace(-9, 9, 1001, dtype=torch.double, requires_grad=True)
    other = inputs.detach().clone().requires_grad_()
    layer = torch.nn.Module()
    layer.act = ACT2FN["gelu_new"]
    with_fast_layers(layer)
    assert type(layer.act) is torch.nn.GELU
    layer.act(inputs).sum().backward()
    ACT2FN["gelu_new"](other).sum().backward()
    torch.testing.assert_close(layer.act(inputs), ACT2FN["gelu_new"](other))
    torch.testing.assert_close(inputs.grad, other.grad)


def test_relu_stays():
    layer = torch.nn.Module()
    layer.act = torch.nn.ReLU()
    assert type(with_fast_layers(layer).act) is torch.nn.ReLU
