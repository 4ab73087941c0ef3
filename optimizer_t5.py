"""Optimizers and learning-rate schedules that suit T5, by name, each with its source.

Names not in these tables are the Trainer's own (`--optim adamw_torch`, `--lr_scheduler_type
cosine`, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

RMS_FLOOR = 1e-3


class RmsScaledAdamW(Optimizer):
    """AdamW whose step on each matrix is scaled by max(1e-3, RMS of that matrix).

    Adafactor's parameter scaling put into Adam: plain Adam diverges in T5 pre-training, because
    T5's embeddings have RMS 1 and its projections 0.03. One step, per parameter p with gradient g:

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        p -= lr max(1e-3, RMS(p)) sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)
        p -= lr weight_decay p

    Learning rates are relative to a matrix's own size: 1e-2 moves weights by about 1 % a step.
    Source: nanoT5's AdamWScale (github.com/PiotrNawrot/nanoT5); Adafactor section 8 for the scale.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 2e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
                )
            self.state[p]["step"] += 1
        gradients = [p.grad for p in params]
        averages = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        (beta1, beta2), step = group["betas"], self.state[params[0]]["step"]

        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        updates = torch._foreach_sqrt(squares)
        torch._foreach_add_(updates, group["eps"])
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, averages)
        sizes = torch._foreach_norm(params)
        torch._foreach_div_(sizes, [math.sqrt(p.numel()) for p in params])
        torch._foreach_clamp_min_(sizes, RMS_FLOOR)
        torch._foreach_mul_(updates, sizes)
        correction = math.sqrt(1 - beta2**step) / (1 - beta1**step)
        torch._foreach_add_(params, updates, alpha=-group["lr"] * correction)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def t5_adafactor(
    params: Iterable,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> Optimizer:
    """Adafactor as T5 was trained: factored, parameter scaling, clip 1.0, decay 0.8, no momentum.

    It has neither `betas` nor Adam's `eps`.

    Source: t5x/adafactor.py and its gin files; the names are those of transformers' class.
    """
    from transformers.optimization import Adafactor

    return Adafactor(
        params,
        lr=lr,
        weight_decay=weight_decay,
        eps=(1e-30, 1e-3),
        clip_threshold=1.0,
        decay_rate=-0.8,
        beta1=None,
        scale_parameter=True,
        relative_step=False,
        warmup_init=False,
    )


def adamw_rms(
    params: Iterable,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> Optimizer:
    """AdamW with parameter scaling, nanoT5's best recipe at lr 2e-2 with a cosine to 1e-5."""
    return RmsScaledAdamW(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "t5_adafactor": t5_adafactor,
    "adamw_rms": adamw_rms,
}


def rsqrt(optimizer: Optimizer, *, num_warmup_steps: int, num_training_steps: int) -> LambdaLR:
    """T5's pre-training schedule: lr / sqrt(max(step, warm-up steps)).

    With --learning_rate 1.0 and --warmup_steps 10000 this is T5's own 1 / sqrt(max(step, 10000)):
    constant 0.01 for 10,000 steps, then falling; there is no ramp from zero.
    Source: t5x/configs/runs/pretrain.gin (constant * rsqrt_decay).
    """
    floor = max(num_warmup_steps, 1)
    return LambdaLR(optimizer, lambda step: 1 / math.sqrt(max(step, floor)))


SCHEDULES: dict[str, Callable[..., LambdaLR]] = {"rsqrt": rsqrt}
