"""Optimizers and learning-rate schedules that suit T5, by name, each with its source, and presets.

Names not in these tables are the Trainer's own (`--optim adamw_torch`, `--lr_scheduler_type
linear`, ...).
"""

from __future__ import annotations

import ast
import inspect
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import (
    TYPE_TO_SCHEDULER_FUNCTION,
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_wsd_schedule,
)

from errors import UserError, did_you_mean

RMS_FLOOR = 1e-3


# ---- optimizers ---------------------------------------------------------------------------------


class StepByGroup(Optimizer):
    """An optimizer that steps all parameters of a group with a gradient at once."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._begin_group(group)
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _begin_group(self, group: dict) -> None:
        """What a group counts in each step, also where none of its parameters has a gradient."""

    @abstractmethod
    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        """One step of parameters that all have a gradient."""


class T5Adafactor(StepByGroup):
    """Adafactor as T5 was trained: factored, parameter scaling, clip 1.0, decay 0.8, no momentum.

    One step t, per parameter p with gradient g, V the factored average of g^2 (of all of it where
    a side is shorter than `min_dim_size_to_factor`), b = 1 - t^-decay_rate:

        V = b V + (1 - b) (g^2 + 1e-30)          u = g / sqrt(V)
        p -= lr max(1e-3, RMS(p)) (u / max(1, RMS(u) / clip_threshold) + weight_decay p)

    transformers' class factors every matrix, and waits for the device once per parameter, whose RMS
    it compares on the host. Source: t5x/adafactor.py and its gin files.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        clip_threshold: float = 1.0,
        decay_rate: float = 0.8,
        min_dim_size_to_factor: int = 128,
    ):
        super().__init__(
            params,
            {
                **{"lr": lr, "weight_decay": weight_decay, "clip_threshold": clip_threshold},
                "decay_rate": -decay_rate,  # the sign that it has in transformers' checkpoints
            },
        )
        self.min_dim_size_to_factor = min_dim_size_to_factor

    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        rates = torch._foreach_mul(_sizes(params), group["lr"])
        # One by one: copies of all parameters would cost what the factors save.
        for p, rate in zip(params, rates, strict=True):
            update = self._direction(p, decay_rate=group["decay_rate"])
            rms = update.norm() / math.sqrt(update.numel())
            update /= (rms / group["clip_threshold"]).clamp_(min=1.0)
            update *= rate
            if group["weight_decay"]:
                p -= p * (rate * group["weight_decay"])
            p -= update

    def _direction(self, p: torch.Tensor, *, decay_rate: float) -> torch.Tensor:
        """g / sqrt(V), after g^2 went into V: averages of its rows and columns, or all of it."""
        squares = p.grad.square().add_(1e-30)
        state = self.state[p]
        if sum(side >= self.min_dim_size_to_factor for side in p.shape) < 2:
            averages = {"exp_avg_sq": squares}
        else:
            averages = {"exp_avg_sq_row": squares.mean(-1), "exp_avg_sq_col": squares.mean(-2)}
        if not state:
            state.update(step=0, **{key: torch.zeros_like(new) for key, new in averages.items()})
        state["step"] += 1
        kept = 1 - state["step"] ** decay_rate
        for key, new in averages.items():
            state[key].mul_(kept).add_(new, alpha=1 - kept)
        if "exp_avg_sq" in state:
            return state["exp_avg_sq"].rsqrt().mul_(p.grad)
        rows, columns = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        row_factors = (rows / rows.mean(-1, keepdim=True)).rsqrt_()
        return (row_factors.unsqueeze(-1) * columns.unsqueeze(-2).rsqrt()).mul_(p.grad)


class RmsScaledAdamW(StepByGroup):
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
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ):
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        )

    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
                )
            self.state[p]["step"] += 1
        rates = torch._foreach_mul(_sizes(params), group["lr"])
        counts = {(self.state[p]["step"], p.device) for p in params}
        steps = {(t, at): torch.full((), t, dtype=torch.float32, device=at) for t, at in counts}
        # torch's fused step goes through memory once, where one operation after the other took
        # ten passes (0.29 s against 0.05 s for 50 M parameters on a core) and a copy of all.
        beta1, beta2 = group["betas"]
        for p, rate in zip(params, rates, strict=True):
            state = self.state[p]
            torch._fused_adamw_(
                *([p], [p.grad], [state["exp_avg"]], [state["exp_avg_sq"]], []),
                [steps[state["step"], p.device]],
                lr=rate,
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=group["eps"] / math.sqrt(1 - beta2 ** state["step"]),  # it corrects first
                amsgrad=False,
                maximize=False,
            )
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def _sizes(params: list[torch.Tensor]) -> list[torch.Tensor]:
    """max(1e-3, RMS) of each parameter: Adafactor's measure of how large a step it bears."""
    norms = torch._foreach_norm(params)
    # Not in place: FSDP2's norms are parts of a sum until an operation gathers them.
    sizes = list(torch._foreach_div(norms, [math.sqrt(p.numel()) for p in params]))
    torch._foreach_clamp_min_(sizes, RMS_FLOOR)
    return sizes


class Muon(RmsScaledAdamW):
    """Muon for the hidden matrices, RmsScaledAdamW for embeddings, head and norms.

    A step turns every singular value of a block's Nesterov momentum into one of about 1. A block is
    a matrix, or with `per_head` what one attention head has of it. For a block of A x B of a matrix
    p in a group of the role `hidden`, with gradient g:

        m = momentum m + (1 - momentum) g
        p -= lr weight_decay p
        p -= lr size sqrt(max(A, B)) orthogonal((1 - momentum) g + momentum m)

    The root gives the step the RMS `lr * size`, whatever the shape; size is max(1e-3, RMS(p)), so
    that learning rates mean what they mean in RmsScaledAdamW, or the constant `update_rms`
    (Moonlight's is 0.2). The output head's learning rate is `head_scale` times the given one, that
    of all other groups `rest_scale` times. Blocks of one shape are orthogonalised together.

    Source: Jordan, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982 (RMS). The
    scales and the blocks: benchmarks/optimizers_cpu_202611.md.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        *,
        momentum: float = 0.95,
        update_rms: float | None = None,
        per_head: bool = True,
        head_scale: float = 4.0,
        rest_scale: float = 4.0,
    ):
        super().__init__(params, lr, weight_decay, betas, eps)
        scales = {"hidden": 1.0, "head": head_scale, "rest": rest_scale}
        for group in self.param_groups:
            group.setdefault("role", "rest")
            group["blocks"] = group.get("blocks") if per_head else None
            group |= {"momentum": momentum, "update_rms": update_rms}
            group["lr"] *= scales[group["role"]]

    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        if group["role"] != "hidden":
            super()._step_group(group, params)
            return
        of_shape: dict[torch.Size, list[torch.Tensor]] = {}
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            of_shape.setdefault(p.shape, []).append(p)
        for alike in of_shape.values():
            self._step_matrices(group, alike)

    def _step_matrices(self, group: dict, params: list[torch.Tensor]) -> None:
        """One step of matrices of one shape, which are copied together and no others with them."""
        gradients = [p.grad for p in params]
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        updates = orthogonal_blocks(updates, blocks=group["blocks"])
        if group["update_rms"] is None:
            updates *= torch.stack(_sizes(params)).view(-1, 1, 1)
        else:
            updates *= group["update_rms"]
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates.unbind(), alpha=-group["lr"])


def orthogonal_blocks(matrices: torch.Tensor, *, blocks: tuple[int, int] | None) -> torch.Tensor:
    """[matrices, rows, columns], each block made orthogonal and scaled to an RMS of about 1.

    `blocks` is (0, n) for n equal blocks of rows, (1, n) for columns, None for the whole matrix.
    """
    dim, count = blocks or (0, 1)
    # [matrices, blocks, rows of a block, its columns]. No view: FSDP2's shares may cut a block.
    parts = torch.stack(matrices.bfloat16().chunk(count, 1 + dim), 1)
    whole = torch.cat(orthogonal(parts).unbind(1), 1 + dim)
    return whole.to(matrices.dtype).mul_(math.sqrt(max(parts.shape[2:])))


# Coefficients of the quintic a x + b x^3 + c x^5 that drives singular values towards 1 (Jordan).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[..., rows, columns], singular values brought to 0.7 ... 1.2, in bfloat16 and back."""
    is_tall = matrices.size(-2) > matrices.size(-1)
    wide = matrices.mT if is_tall else matrices
    x = wide.to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(0, -3)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(wide.shape)
    return (x.mT if is_tall else x).to(matrices.dtype)


class ScheduleFreeAdamW(StepByGroup):
    """AdamW that averages its iterates instead of lowering the learning rate.

    Gradients are taken at y, between the iterate z and its average x; x is what is evaluated and
    saved. One step t with gradient g at y and lr the schedule's rate, a warm-up then constant:

        v = b2 v + (1 - b2) g^2        u = g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y
        z -= lr size u                 c = max(lr)^2 / (sum of max(lr)^2 over all steps)
        x = (1 - c) x + c z            y = b1 x + (1 - b1) z

    size is max(1e-3, RMS(y)), as in RmsScaledAdamW; 1 where `scale_parameters` is False, which is
    the published rule. A parameter holds y after `train()` and x after `eval()`. While x is shown,
    y stays in the state: switching costs no bit, so a resumed run equals one never stopped.

    Source: Defazio et al. 2024, "The Road Less Scheduled", arXiv 2405.15682.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 2e-2,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        *,
        scale_parameters: bool = True,
    ):
        if betas[0] <= 0:
            raise UserError(
                f"--adam_beta1 {betas[0]}: schedule_free divides by it; expected more than 0."
            )
        super().__init__(
            params,
            {
                **{"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps},
                **{"scale_parameters": scale_parameters, "highest_lr": 0.0, "weights_sum": 0.0},
            },
        )

    @torch.no_grad()
    def eval(self) -> None:
        """Shows the average x: what is evaluated and saved."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p)
                if state and "y" not in state:
                    state["y"] = p.clone()
                    p.lerp_(state["z"], 1 - 1 / group["betas"][0])

    @torch.no_grad()
    def train(self) -> None:
        """Shows y, where gradients are taken."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p)
                if state and "y" in state:
                    p.copy_(state.pop("y"))

    def _begin_group(self, group: dict) -> None:
        group["highest_lr"] = max(group["highest_lr"], group["lr"])
        group["weights_sum"] += group["highest_lr"] ** 2

    def _step_group(self, group: dict, params: list[torch.Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=0, z=p.clone(), exp_avg_sq=torch.zeros_like(p))
            assert "y" not in self.state[p], "train() comes before a gradient is taken"
            self.state[p]["step"] += 1
        gradients = [p.grad for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        iterates = [self.state[p]["z"] for p in params]
        beta1, beta2 = group["betas"]
        corrections = [math.sqrt(1 - beta2 ** self.state[p]["step"]) for p in params]
        share = group["highest_lr"] ** 2 / group["weights_sum"] if group["weights_sum"] else 0.0

        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, corrections)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(gradients, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        if group["scale_parameters"]:
            torch._foreach_mul_(updates, _sizes(params))
        # x put into the rule for y: y' = (1 - c) y + c z - lr (1 - b1 (1 - c)) u, z the old one.
        torch._foreach_lerp_(params, iterates, share)
        torch._foreach_add_(params, updates, alpha=-group["lr"] * (1 - beta1 * (1 - share)))
        torch._foreach_add_(iterates, updates, alpha=-group["lr"])


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "t5_adafactor": T5Adafactor,
    "adamw_rms": RmsScaledAdamW,
    "muon": Muon,
    "schedule_free": ScheduleFreeAdamW,
}
COMMON_SETTINGS = ("params", "lr", "weight_decay", "betas", "eps")


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    decayed: Collection[str],
    settings: dict[str, object],
    own_settings: dict[str, object],
) -> Optimizer:
    """The optimizer of this name over the model's parameters.

    `decayed` names the parameters that weight decay is for, `settings` are lr, weight_decay, betas
    and eps (those it does not have are left out), `own_settings` come from --optim_args.
    """
    taken = inspect.signature(OPTIMIZERS[name]).parameters
    common = {key: value for key, value in settings.items() if key in taken}
    groups = parameter_groups(model, decayed=decayed)
    return OPTIMIZERS[name](groups, **common, **own_settings)


ROLES = ("hidden", "head", "rest")


def parameter_groups(model: nn.Module, *, decayed: Collection[str]) -> list[dict]:
    """Groups of parameters of one role, cut into the same blocks, with weight decay or without.

    `hidden` are the weights of all linear layers but the output head: Muon's, by its author. A T5
    1.0's head is its embedding, and `rest`. Projections of an attention have a block per head.
    """
    linear = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    blocks = attention_blocks(model)
    groups: dict[tuple, dict] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        role = "head" if name.endswith("lm_head.weight") else "hidden" if name in linear else "rest"
        group = {"params": [], "role": role, "blocks": blocks.get(name)}
        if name not in decayed:
            group["weight_decay"] = 0.0
        key = (ROLES.index(role), group["blocks"] or (), name not in decayed)
        groups.setdefault(key, group)["params"].append(p)
    return [groups[key] for key in sorted(groups)]


def attention_blocks(model: nn.Module) -> dict[str, tuple[int, int]]:
    """By name of a projection of an attention: rows (0) or columns (1), and into how many heads."""
    return {
        f"{name}.{projection}.weight": (dim, module.n_heads)
        for name, module in model.named_modules()
        if hasattr(module, "n_heads") and hasattr(module, "key_value_proj_dim")
        for projection, dim in (("q", 0), ("k", 0), ("v", 0), ("o", 1))
    }


# ---- schedules ----------------------------------------------------------------------------------


def rsqrt(optimizer: Optimizer, *, num_warmup_steps: int, num_training_steps: int) -> LambdaLR:
    """T5's pre-training schedule: lr / sqrt(max(step, warm-up steps)).

    With learning rate 1.0 and 10,000 steps of warm-up, its preset, this is T5's own
    1 / sqrt(max(step, 10000)): constant 0.01 for 10,000 steps, then falling; there is no ramp from
    zero. Source: t5x/configs/runs/pretrain.gin (constant * rsqrt_decay).
    """
    floor = max(num_warmup_steps, 1)
    return LambdaLR(optimizer, lambda step: 1 / math.sqrt(max(step, floor)))


def constant(optimizer: Optimizer, *, num_warmup_steps: int, num_training_steps: int) -> LambdaLR:
    """Constant after its warm-up. The library's of this name would ignore a warm-up."""
    return get_constant_schedule_with_warmup(optimizer, num_warmup_steps=num_warmup_steps)


def cosine_with_min_lr(
    optimizer: Optimizer, *, num_warmup_steps: int, num_training_steps: int, min_lr: float = 1e-5
) -> LambdaLR:
    """Warm-up, then half a cosine down to `min_lr`; 1e-5 is nanoT5's (configs/task/pt.yaml)."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, num_warmup_steps, num_training_steps, min_lr=min_lr
    )


def warmup_stable_decay(
    optimizer: Optimizer,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    num_decay_steps: float = 0.2,
    decay_type: str = "1-sqrt",
    min_lr_ratio: float = 0.0,
) -> LambdaLR:
    """Warm-up, constant, then down to zero in the last steps (below 1: that share of the run).

    Source: Haegele et al. 2024, arXiv 2405.18392: a fifth of the run, falling as 1 - sqrt.
    """
    if num_decay_steps < 1:
        num_decay_steps = math.ceil(num_training_steps * num_decay_steps)
    if num_warmup_steps + num_decay_steps > num_training_steps:
        raise UserError(
            f"--lr_scheduler_type warmup_stable_decay: {num_warmup_steps} steps of warm-up and "
            f"{num_decay_steps} of decay do not fit into {num_training_steps}. Give a smaller "
            "--warmup_steps or --lr_scheduler_kwargs num_decay_steps=N."
        )
    return get_wsd_schedule(
        optimizer,
        num_warmup_steps=num_warmup_steps,
        num_decay_steps=int(num_decay_steps),
        num_training_steps=num_training_steps,
        decay_type=decay_type,
        min_lr_ratio=min_lr_ratio,
    )


SCHEDULES: dict[str, Callable[..., LambdaLR]] = {
    "rsqrt": rsqrt,
    "constant": constant,
    "cosine_with_min_lr": cosine_with_min_lr,
    "warmup_stable_decay": warmup_stable_decay,
}
SCHEDULE_SETTINGS = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")
# Of the Trainer's schedules: those without a warm-up, and one that is given no settings.
WITHOUT_WARMUP = ("reduce_lr_on_plateau", "greedy")
WITHOUT_SETTINGS = ("constant_with_warmup",)
# Of the Trainer's optimizers: those that read no --optim_args, and those that read no --adam_...
TRAINERS_WITHOUT_SETTINGS = ("adamw_torch", "adamw_torch_fused", "adafactor")
TRAINERS_WITHOUT_BETAS = ("adafactor", "sgd", "adagrad", "rmsprop")


# ---- settings -----------------------------------------------------------------------------------


def read_settings(text: str | dict | None, *, flag: str) -> dict[str, object]:
    """`a=1,b=linear` or JSON, as a dictionary; numbers, booleans and None become what they say."""
    if not text or isinstance(text, dict):
        return dict(text or {})
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{flag} {text}: not valid JSON ({error}).") from error
    settings: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} {text}: expected name=value[,name=value...], found {item!r}.")
        try:
            settings[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            settings[name.strip()] = value.strip()
    return settings


def check_settings(settings: dict[str, object], *, known: list[str] | None, flag: str) -> None:
    """Refuses settings that nothing would read."""
    for name in settings:
        if known is not None and name not in known:
            has = f"It has {', '.join(known)}." if known else "It has none of its own."
            raise UserError(f"{flag}: there is no setting {name}.{did_you_mean(name, known)} {has}")


def optimizer_settings(name: str) -> list[str] | None:
    """What --optim_args may set for an optimizer; None: only the Trainer knows."""
    if name in TRAINERS_WITHOUT_SETTINGS:
        return []
    if name not in OPTIMIZERS:
        return None
    return [k for k in inspect.signature(OPTIMIZERS[name]).parameters if k not in COMMON_SETTINGS]


def schedule_settings(name: str) -> list[str]:
    """What --lr_scheduler_kwargs may set for a schedule."""
    if name in WITHOUT_SETTINGS:
        return []
    function = SCHEDULES.get(name) or TYPE_TO_SCHEDULER_FUNCTION[name]
    return [k for k in inspect.signature(function).parameters if k not in SCHEDULE_SETTINGS]


# ---- presets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """What an optimizer implies where the user says nothing else, and where that comes from."""

    source: str
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: str = "0"  # as typed: below 1 a fraction of the run
    weight_decay: float = 0.0
    adam_beta1: float | None = 0.9  # None: the optimizer has no such setting
    adam_beta2: float | None = 0.999
    adam_epsilon: float | None = 1e-6  # T5's gradients are small; nanoT5's value
    lr_scheduler_kwargs: dict[str, object] = field(default_factory=dict)
    # What changes where another schedule was asked for.
    under_other_schedules: dict[str, float | str] = field(default_factory=dict)


CHOSEN_BY_PRESET = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
NO_BETAS = {"adam_beta1": None, "adam_beta2": None, "adam_epsilon": None}
MEASURED = "benchmarks/optimizers_cpu_202611.md"
DEMO = "recipes/demo_fine_tune.yaml"
T5_DOCS = "transformers' documentation of T5: 1e-4 to 3e-4"
DERIVED = "a quarter of the pre-training rate, as for adamw_rms; not measured"

PRESETS: dict[str, dict[str, Preset]] = {
    "pre_training": {
        "t5_adafactor": Preset(
            "t5x/configs/runs/pretrain.gin",
            *(1.0, "rsqrt", "10000"),
            **NO_BETAS,
            under_other_schedules={"learning_rate": 4e-2, "warmup_steps": "0.1"},
        ),
        "adamw_rms": Preset(MEASURED, 4e-2, "cosine", "0.1"),
        "adamw_torch": Preset(MEASURED, 1e-3, "cosine", "0.1"),
        "adamw_torch_fused": Preset(MEASURED, 1e-3, "cosine", "0.1"),
        "muon": Preset(MEASURED, 1e-2, "linear", "0.1"),
        "schedule_free": Preset(MEASURED, 8e-2, "constant", "0.1"),
    },
    "fine_tuning": {
        "t5_adafactor": Preset("t5x/configs/runs/finetune.gin", 1e-3, "constant", **NO_BETAS),
        "adamw_rms": Preset(DEMO, 1e-2, "linear", "0.1"),
        "adamw_torch": Preset(T5_DOCS, 3e-4, "linear"),
        "adamw_torch_fused": Preset(T5_DOCS, 3e-4, "linear"),
        "muon": Preset(DERIVED, 2.5e-3, "linear", "0.1"),
        "schedule_free": Preset(DERIVED, 1e-2, "constant", "0.1"),
    },
}
# --optim_args that suit random weights; a checkpoint's head is where it belongs.
FROM_SCRATCH: dict[str, dict[str, object]] = {"muon": {"head_scale": 8.0}}
# What a schedule implies where it was asked for and the preset has another one. rsqrt's values are
# absolute: its learning rate is the 1 of 1 / sqrt(step).
SCHEDULE_PRESETS: dict[str, dict[str, float | str]] = {
    "rsqrt": {"learning_rate": 1.0, "warmup_steps": "10000"},
    "reduce_lr_on_plateau": {"warmup_steps": "0"},
    "greedy": {"warmup_steps": "0"},
}


def complete(
    given: dict[str, object], *, stage: str, optimizer: str
) -> tuple[dict[str, object], str]:
    """What the preset says of every flag in `CHOSEN_BY_PRESET` that was not given, and one line.

    `given` holds these flags as they were typed; None means that the user said nothing.
    """
    given = {name: value for name, value in given.items() if value is not None}
    preset = PRESETS[stage].get(optimizer) or _no_preset(given, stage=stage, optimizer=optimizer)
    _check_numbers(given)
    values = {name: getattr(preset, name) for name in CHOSEN_BY_PRESET}
    schedule = given.get("lr_scheduler_type", preset.lr_scheduler_type)
    if schedule != preset.lr_scheduler_type:
        values |= {"lr_scheduler_kwargs": {}, **preset.under_other_schedules}
        values |= SCHEDULE_PRESETS.get(schedule, {})
    for name in NO_BETAS:
        if name in given and values[name] is None:
            raise UserError(
                f"--{name} {given[name]} has no effect on --optim {optimizer}, which keeps no such "
                "average; leave it out."
            )
    if schedule in WITHOUT_WARMUP and str(given.get("warmup_steps", 0)) != "0":
        raise UserError(
            f"--warmup_steps {given['warmup_steps']} has no effect on --lr_scheduler_type "
            f"{schedule}, which has no warm-up; leave it out."
        )
    chosen = {name: value for name, value in values.items() if name not in given}
    line = f"optimizer  {optimizer}"
    for settings, origin in ((given, "given"), (chosen, f"preset: {preset.source}")):
        shown = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
        line += f"; {shown} ({origin})" if shown else ""
    return chosen, line


def _no_preset(given: dict[str, object], *, stage: str, optimizer: str) -> Preset:
    """What stands in for a preset where the user gives the learning rate."""
    if "learning_rate" not in given:
        raise UserError(
            f"--optim {optimizer} has no preset for {stage.replace('_', '-')}: give "
            f"--learning_rate. Presets exist for {', '.join(PRESETS[stage])}."
        )
    betas = NO_BETAS if optimizer in TRAINERS_WITHOUT_BETAS else {}
    return Preset("the Trainer's", 0.0, "linear", **betas)


def _check_numbers(given: dict[str, object]) -> None:
    for name in ("learning_rate", "weight_decay", "adam_epsilon"):
        if name in given and not 0 <= given[name] < math.inf:
            raise UserError(f"--{name} {given[name]}: expected 0 or more.")
    for name in ("adam_beta1", "adam_beta2"):
        if name in given and not 0 <= given[name] < 1:
            raise UserError(f"--{name} {given[name]}: expected 0 or more, and less than 1.")
