"""Proves that optimizers and schedules compute their formulas, parameter by parameter."""

import math

import pytest
import torch

from optimizer_t5 import RmsScaledAdamW, rsqrt, t5_adafactor

SETTINGS = {"weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-6}


def parameters_and_gradients(steps: int):
    generator = torch.Generator().manual_seed(0)
    shapes, scales = [(4, 3), (5,), (2, 2)], [1.0, 0.03, 1e-6]
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator) * scale)
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(steps)]
    return params, gradients


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rms_scaled_adamw_follows_its_formula(weight_decay):
    params, gradients = parameters_and_gradients(steps=5)
    expected = [p.detach().double().clone() for p in params]
    averages = [torch.zeros_like(p) for p in expected]
    squares = [torch.zeros_like(p) for p in expected]
    optimizer = RmsScaledAdamW(params, lr=0.02, weight_decay=weight_decay)
    for t, step_gradients in enumerate(gradients, start=1):
        for i, g in enumerate(step_gradients):
            params[i].grad = g.clone()
            averages[i] = 0.9 * averages[i] + 0.1 * g.double()
            squares[i] = 0.999 * squares[i] + 0.001 * g.double() ** 2
            size = max(1e-3, expected[i].pow(2).mean().sqrt().item())
            scale = 0.02 * size * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected[i] = expected[i] - scale * averages[i] / (squares[i].sqrt() + 1e-6)
            expected[i] = expected[i] * (1 - 0.02 * weight_decay)
        optimizer.step()
    for p, want in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), want, rtol=1e-5, atol=1e-8)


def test_adafactor_is_scaled_by_the_parameter():
    params, gradients = parameters_and_gradients(steps=1)
    before = [p.detach().clone() for p in params]
    optimizer = t5_adafactor(params, lr=0.01, **SETTINGS)
    for p, g in zip(params, gradients[0], strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        moved = (p - old).pow(2).mean().sqrt().item()
        size = max(1e-3, old.pow(2).mean().sqrt().item())
        assert moved == pytest.approx(0.01 * size, rel=0.35)


def test_rsqrt_is_t5s_pre_training_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = rsqrt(optimizer, num_warmup_steps=100, num_training_steps=1000)
    rates = []
    for _ in range(500):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1 / math.sqrt(max(step, 100)) for step in range(500)])
