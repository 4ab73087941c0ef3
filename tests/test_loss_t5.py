"""Proves that the loss in chunks, its gradients and the scores of an evaluation are those of
torch's cross entropy over all logits, for every kind of head, and that the z-loss is T5's."""

import functools

import pytest
import torch
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from lora_t5 import with_adapters
from loss_t5 import answering_with, score_logits, summed_loss, token_scores, with_loss_head

SETTINGS = [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2}, {"label_smoothing": 0.2, "z_loss": 0.1}]


def make_batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn((3, 7, 5), generator=generator).to(dtype)
    weight = torch.randn((11, 5), generator=generator).to(dtype)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, 4:] = labels[2, 1:] = -100
    return states.requires_grad_(), weight.requires_grad_(), labels


def reference(logits, labels, *, label_smoothing=0.0, z_loss=0.0):
    """[loss, z-loss] by torch's cross entropy over all logits."""
    rows = logits.flatten(0, 1)
    loss = functional.cross_entropy(
        rows, labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    penalty = z_loss * rows.logsumexp(-1)[labels.flatten() != -100].square().sum()
    return loss + penalty, penalty


@pytest.mark.parametrize(
    ("chunk_tokens", "cached_tokens"), [(1, 9), (4, 9), (21, 99), (None, 99), (7, 2), (None, 4)]
)
@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_and_gradients_equal_torchs(settings, chunk_tokens, cached_tokens, monkeypatch):
    states, weight, labels = make_batch()
    monkeypatch.setattr("loss_t5.CACHE_BYTES", 4 * len(weight) * cached_tokens)
    loss, penalty = summed_loss(
        states, weight, labels=labels, chunk_tokens=chunk_tokens, **settings
    )
    (2.5 * loss).backward()
    other_states, other_weight, _ = make_batch()
    expected, expected_penalty = reference(other_states @ other_weight.T, labels, **settings)
    (2.5 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert penalty.item() == pytest.approx(expected_penalty.item(), rel=1e-12)
    torch.testing.assert_close(states.grad, other_states.grad)
    torch.testing.assert_close(weight.grad, other_weight.grad)


def test_mixed_precision_is_the_table_s_within_bfloat16():
    """Against autocast with a table of logits; both against float64."""
    errors = {}
    for way in ("chunks", "table"):
        states, weight, labels = make_batch(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            if way == "chunks":
                loss = summed_loss(states, weight, labels=labels, z_loss=1e-3, chunk_tokens=4)[0]
            else:
                logits = functional.linear(states, weight)
        if way == "table":
            loss, _ = reference(logits.float(), labels, z_loss=1e-3)
        loss.backward()
        exact_states, exact_weight, _ = make_batch()
        exact, _ = reference(exact_states @ exact_weight.T, labels, z_loss=1e-3)
        exact.backward()
        assert states.grad.dtype == weight.grad.dtype == torch.float32
        errors[way] = [
            abs(loss.item() - exact.item()) / exact.item(),
            *(
                ((a.grad - b.grad).norm() / b.grad.norm()).item()
                for a, b in ((states, exact_states), (weight, exact_weight))
            ),
        ]
    assert max(errors["chunks"]) < 1e-2
    for ours, other in zip(errors["chunks"], errors["table"], strict=True):
        assert ours < 1.5 * other + 1e-4


def test_huge_logits_stay_finite():
    states = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    loss, _ = summed_loss(states, torch.eye(3), labels=torch.tensor([[1]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert states.grad.tolist() == [[[1.0, -1.0, 0.0]]]


def test_a_batch_without_targets_costs_nothing():
    states, weight, labels = make_batch()
    loss, _ = summed_loss(states, weight, labels=torch.full_like(labels, -100), z_loss=1e-4)
    loss.backward()
    assert loss.item() == 0 and not states.grad.any() and not weight.grad.any()


def test_scores_of_an_evaluation_are_those_of_all_logits():
    states, weight, labels = make_batch(torch.float32)
    labels[1, 2:5] = (states @ weight.T).argmax(-1)[1, 2:5]
    losses, hits = token_scores(states, weight, labels=labels, chunk_tokens=4)
    expected = score_logits(states @ weight.T, labels)
    torch.testing.assert_close(losses, expected.losses.detach())
    torch.testing.assert_close(hits, expected.is_correct)
    assert 0 < hits.sum() < (labels >= 0).sum()
    assert not losses[labels < 0].any() and not losses.requires_grad


# ---- the heads of real models -------------------------------------------------------------------


def tiny_model(kind):
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = T5Config(
        vocab_size=40, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0, **shape
    )
    config.scale_decoder_outputs = kind == "tied"
    model = T5ForConditionalGeneration(config)
    if kind == "untied":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(40, 16) / 4)
    if kind == "resized":
        model.resize_token_embeddings(45)
    if kind == "adapters":
        settings = {"rank": 2, "alpha": None, "dropout_rate": 0.0, "target_modules": "q,v"}
        model = with_adapters(model, seed=0, **settings)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["tied", "untied", "resized", "adapters"])
def test_a_model_learns_the_same_from_chunks(kind):
    model = tiny_model(kind)
    inputs, labels = torch.randint(3, 40, (2, 9)), torch.randint(3, 40, (2, 6))
    labels[1, 4:] = -100
    batch = {"input_ids": inputs, "decoder_input_ids": labels.clamp(min=0)}
    names = set(model.state_dict())
    expected, _ = reference(model(**batch).logits, labels, z_loss=1e-3)
    expected.backward()
    by_table = gradients(model)
    model.zero_grad()
    with_loss_head(model)
    assert set(model.state_dict()) == names
    answer = functools.partial(summed_loss, labels=labels, z_loss=1e-3, chunk_tokens=5)
    with answering_with(model, answer):
        loss, _ = model(**batch).logits
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    found = gradients(model)
    assert found.keys() == by_table.keys()
    assert any("lora" in name for name in found) == (kind == "adapters")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, by_table[name], rtol=1e-4, atol=1e-6, msg=name)
    assert model(**batch).logits.shape == (2, 6, 45 if kind == "resized" else 40)
