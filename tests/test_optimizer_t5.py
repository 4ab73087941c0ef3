"""Proves that optimizers and schedules compute their formulas, against references written out here
in double precision and against torch's and transformers' own; that a checkpoint costs no bit; that
a step launches few operations and waits for none; that nothing a user sets is ignored."""

import copy
import io
import json
import math

import pytest
import torch
from conftest import make_sentences
from one_step import tiny_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.optimization import Adafactor

import pre_train_t5
from arguments_t5 import PreTrainingModelArguments
from errors import UserError
from flags import parse_flags
from optimizer_t5 import (
    CHOSEN_BY_PRESET,
    NEWTON_SCHULZ,
    OPTIMIZERS,
    PRESETS,
    SCHEDULES,
    Muon,
    RmsScaledAdamW,
    ScheduleFreeAdamW,
    T5Adafactor,
    complete,
    make_optimizer,
    optimizer_settings,
    orthogonal,
    orthogonal_blocks,
    parameter_groups,
    read_settings,
    schedule_settings,
)
from trainer_t5 import T5Trainer
from training_arguments_t5 import PreTrainingArguments

SHAPES, SCALES = [(4, 3), (5,), (2, 2)], [1.0, 0.03, 1e-6]


def parameters_and_gradients(steps: int, shapes=SHAPES, scales=SCALES):
    generator = torch.Generator().manual_seed(0)
    params = [
        nn.Parameter(torch.randn(shape, generator=generator) * scale)
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(steps)]
    return params, gradients


def run(optimizer, params, gradients) -> None:
    for step_gradients in gradients:
        for p, g in zip(params, step_gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()


def assert_near(params, expected) -> None:
    for p, want in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), want, rtol=1e-5, atol=1e-8)


def size(p: torch.Tensor) -> float:
    return max(1e-3, p.pow(2).mean().sqrt().item())


# ---- formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rms_scaled_adamw_follows_its_formula(weight_decay):
    params, gradients = parameters_and_gradients(steps=5)
    expected = [p.detach().double().clone() for p in params]
    averages = [torch.zeros_like(p) for p in expected]
    squares = [torch.zeros_like(p) for p in expected]
    for t, step_gradients in enumerate(gradients, start=1):
        for i, g in enumerate(step_gradients):
            averages[i] = 0.9 * averages[i] + 0.1 * g.double()
            squares[i] = 0.999 * squares[i] + 0.001 * g.double() ** 2
            scale = 0.02 * size(expected[i]) * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected[i] = expected[i] - scale * averages[i] / (squares[i].sqrt() + 1e-6)
            expected[i] = expected[i] * (1 - 0.02 * weight_decay)
    run(RmsScaledAdamW(params, lr=0.02, weight_decay=weight_decay), params, gradients)
    assert_near(params, expected)


def test_a_parameter_without_a_gradient_keeps_its_own_count_of_steps():
    params, gradients = parameters_and_gradients(steps=2)
    alone = [nn.Parameter(params[1].detach().clone())]
    optimizer = RmsScaledAdamW(params, lr=0.02)
    params[0].grad = gradients[0][0]
    optimizer.step()
    params[1].grad = gradients[1][1]
    optimizer.step()
    run(RmsScaledAdamW(alone, lr=0.02), alone, [[gradients[1][1]]])
    assert torch.equal(params[1], alone[0])


@pytest.mark.parametrize("least_factored", [2, 4])
def test_adafactor_follows_t5x(least_factored):
    """4 x 3 is factored where sides of 2 are, and not where only sides of 4 are."""
    params, gradients = parameters_and_gradients(steps=4)
    expected = [p.detach().double().clone() for p in params]
    squares = [torch.zeros_like(p) for p in expected]
    for t, step_gradients in enumerate(gradients, start=1):
        decay = 1 - t**-0.8
        for i, g in enumerate(step_gradients):
            g = g.double()
            squares[i] = decay * squares[i] + (1 - decay) * (g**2 + 1e-30)
            v = squares[i]
            if v.ndim == 2 and min(v.shape) >= least_factored:
                v = v.mean(1, keepdim=True) * v.mean(0, keepdim=True) / v.mean()
            u = g / v.sqrt()
            u = u / max(1.0, u.pow(2).mean().sqrt().item())
            expected[i] = expected[i] - 0.01 * size(expected[i]) * u
    optimizer = T5Adafactor(params, lr=0.01, min_dim_size_to_factor=least_factored)
    run(optimizer, params, gradients)
    assert_near(params, expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adafactor_goes_on_from_a_checkpoint_of_transformers_class(weight_decay):
    """Which factors what has two sides, waits for each parameter's RMS, and computes the same."""
    theirs, gradients = parameters_and_gradients(steps=4)
    settings = {"lr": 0.01, "weight_decay": weight_decay}
    library = Adafactor(theirs, **settings, relative_step=False, scale_parameter=True)
    run(library, theirs, gradients[:2])
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = T5Adafactor(ours, **settings, min_dim_size_to_factor=2)
    optimizer.load_state_dict(copy.deepcopy(library.state_dict()))
    run(library, theirs, gradients[2:])
    run(optimizer, ours, gradients[2:])
    for p, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, want, rtol=1e-6, atol=0)


def test_t5_factors_sides_of_128_and_more_only():
    shapes = [(128, 128), (32, 128), (127, 300)]
    params, gradients = parameters_and_gradients(1, shapes, [1.0, 1.0, 1.0])
    optimizer = T5Adafactor(params, lr=0.01)
    run(optimizer, params, gradients)
    factored = ["exp_avg_sq_row" in optimizer.state[p] for p in params]
    assert factored == [True, False, False]


def test_muon_is_torchs_where_the_step_has_moonlights_rms():
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5)]
    ours, gradients = parameters_and_gradients(4, shapes, [1.0, 0.1, 1.0, 1.0])
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    groups = [{"params": ours, "role": "hidden"}]
    run(Muon(groups, lr=0.02, weight_decay=0.1, update_rms=0.2), ours, gradients)
    library = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    run(library, theirs, gradients)
    for p, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            p, want, rtol=0, atol=2e-4
        )  # a step is 4e-3; bfloat16 has 8 bits


def test_muons_step_has_the_size_of_the_matrix_and_no_preferred_direction():
    (p,), gradients = parameters_and_gradients(1, [(32, 16)], [0.03])
    before = p.detach().clone()
    run(Muon([{"params": [p], "role": "hidden"}], lr=0.01), [p], gradients)
    moved = before - p.detach()
    assert size(moved * 1e3) == pytest.approx(0.01 * size(before) * 1e3, rel=0.2)
    u, _, v = torch.linalg.svd(gradients[0][0], full_matrices=False)
    nearest = u @ v
    assert torch.nn.functional.cosine_similarity(moved.flatten(), nearest.flatten(), 0) > 0.95
    singular = torch.linalg.svdvals(orthogonal(gradients[0][0][None])[0])
    assert singular.min() > 0.6 and singular.max() < 1.3


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        *(((6, 4), None), ((4, 6), None), ((5, 5), None), ((96, 32), None)),
        *(((8, 6), (0, 4)), ((6, 8), (1, 4)), ((24, 8), (0, 2)), ((8, 24), (1, 2))),
    ],
)
def test_blocks_orthogonalised_together_equal_one_by_one(shape, blocks):
    """Tall and wide, whole, of rows and of columns."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    dim, count = blocks or (0, 1)
    a, b, c = NEWTON_SCHULZ
    for matrix, found in zip(matrices, orthogonal_blocks(matrices, blocks=blocks), strict=True):
        for block, part in zip(matrix.chunk(count, dim), found.chunk(count, dim), strict=True):
            is_tall = block.size(0) > block.size(1)
            x = (block.mT if is_tall else block).bfloat16()
            x = x / x.norm()
            for _ in range(5):
                gram = x @ x.mT
                x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            want = (x.mT if is_tall else x).float() * math.sqrt(max(block.shape))
            assert torch.equal(part, want)


@pytest.mark.parametrize("dim", [0, 1])
def test_each_attention_head_is_made_orthogonal_by_itself(dim):
    """A matrix of two heads moves as two matrices of one head, each relative to the whole's size.

    A head whose gradient is 100 times another's moves as far.
    """
    heads = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    heads = heads if dim == 0 else heads.mT
    whole = nn.Parameter(torch.cat(list(torch.ones_like(heads)), dim))
    whole.grad = torch.cat([heads[0], 100 * heads[1]], dim)
    groups = [{"params": [whole], "role": "hidden", "blocks": (dim, 2)}]
    assert Muon([dict(groups[0])], per_head=False).param_groups[0]["blocks"] is None
    Muon(groups, lr=0.01).step()
    moved = (1 - whole.detach()).chunk(2, dim)
    for head, gradient in zip(moved, heads, strict=True):
        (alone,) = orthogonal(gradient[None])
        torch.testing.assert_close(head, 0.01 * math.sqrt(6) * alone, rtol=0, atol=1e-3)


def test_muon_leaves_the_rest_to_adamw_rms_at_its_own_rate():
    params, gradients = parameters_and_gradients(steps=3)
    alone = [nn.Parameter(p.detach().clone()) for p in params[1:]]
    groups = [{"params": params[:1], "role": "hidden"}, {"params": params[1:]}]
    optimizer = Muon(groups, lr=0.02, rest_scale=1.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, pytest.approx(0.03)]
    run(optimizer, params, gradients)
    run(RmsScaledAdamW(alone, lr=0.02 * 1.5), alone, [g[1:] for g in gradients])
    assert all(torch.equal(p, q) for p, q in zip(params[1:], alone, strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_schedule_free_follows_the_published_rule(scaled):
    """x, y and z kept apart, the rate in a warm-up of two steps that starts at 0."""
    params, gradients = parameters_and_gradients(steps=6)
    rates = [0.0, 0.01, 0.02, 0.02, 0.02, 0.02]
    x = [p.detach().double().clone() for p in params]
    y, z = [p.clone() for p in x], [p.clone() for p in x]
    squares, weights = [torch.zeros_like(p) for p in x], 0.0
    optimizer = ScheduleFreeAdamW(params, lr=0.02, weight_decay=0.1, scale_parameters=scaled)
    for t, (lr, step_gradients) in enumerate(zip(rates, gradients, strict=True), start=1):
        weights += lr**2
        share = lr**2 / weights if weights else 0.0
        for i, g in enumerate(step_gradients):
            squares[i] = 0.999 * squares[i] + 0.001 * g.double() ** 2
            root = (squares[i] / (1 - 0.999**t)).sqrt() + 1e-6
            u = g.double() / root + 0.1 * y[i]
            z[i] = z[i] - lr * (size(y[i]) if scaled else 1.0) * u
            x[i] = (1 - share) * x[i] + share * z[i]
            y[i] = 0.9 * x[i] + 0.1 * z[i]
        optimizer.param_groups[0]["lr"] = lr
        optimizer.train()
        run(optimizer, params, [step_gradients])
        assert_near(params, y)
        optimizer.eval()
        assert_near(params, x)
    assert not torch.allclose(x[0], y[0], rtol=1e-4)


def test_schedule_free_switches_without_losing_a_bit():
    params, gradients = parameters_and_gradients(steps=3)
    optimizer = ScheduleFreeAdamW(params, lr=0.02)
    optimizer.eval()  # before the first step: nothing to show yet
    optimizer.train()
    run(optimizer, params, gradients)
    y = [p.detach().clone() for p in params]
    optimizer.eval()
    x = [p.detach().clone() for p in params]
    optimizer.eval()
    assert all(torch.equal(p, q) for p, q in zip(params, x, strict=True))
    assert not torch.equal(x[0], y[0])
    optimizer.train()
    optimizer.train()
    assert all(torch.equal(p, q) for p, q in zip(params, y, strict=True))


# ---- a model ------------------------------------------------------------------------------------


class TinyNet(nn.Module):
    """The kinds of parameters that T5 has: embeddings, matrices, norm, head."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.shared = nn.Embedding(11, 8)
            self.bias = nn.Embedding(4, 2)
            self.wi = nn.Linear(8, 6, bias=False)
            self.wo = nn.Linear(6, 8, bias=False)
            self.norm = nn.LayerNorm(8, bias=False)
            self.lm_head = nn.Linear(8, 11, bias=False)

    def forward(self, ids):
        hidden = self.wo(torch.tanh(self.wi(self.shared(ids)))) + self.bias.weight.sum()
        return self.lm_head(self.norm(hidden))


DECAYED = ("shared.weight", "bias.weight", "wi.weight", "wo.weight", "lm_head.weight")
SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-6}


def optimizer_of(name: str, model: nn.Module, **own):
    settings = {"decayed": DECAYED, "settings": SETTINGS, "own_settings": own}
    return make_optimizer(name, model, **settings)


def names_by_group(model: nn.Module, *, decayed) -> list[tuple]:
    names = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}
    return [
        (group["role"], group["blocks"], [names[id(p)].split(".")[-1] for p in group["params"]])
        for group in parameter_groups(model, decayed=decayed)
    ]


def test_only_the_hidden_matrices_are_muons():
    model = TinyNet()
    assert names_by_group(model, decayed=DECAYED) == [
        ("hidden", None, ["wi", "wo"]),
        ("head", None, ["lm_head"]),
        ("rest", None, ["shared", "bias"]),
        ("rest", None, ["norm"]),
    ]
    decay = [group["weight_decay"] for group in optimizer_of("muon", model).param_groups]
    assert decay == [0.1, 0.1, 0.1, 0.0]
    model.wi.weight.requires_grad = False
    assert [names for _, _, names in names_by_group(model, decayed=())] == [
        *(["wo"], ["lm_head"], ["shared", "bias", "norm"])
    ]


@pytest.mark.parametrize("tied", [False, True])
def test_a_t5s_parameters_by_role(tied, tokenizer):
    """Two layers a side, four heads; v1.1's output head is its own, T5 1.0's is the embedding."""
    model = tiny_model(tokenizer)
    if tied:
        model.lm_head.weight = model.shared.weight
    decayed = {name for name, _ in model.named_parameters() if "norm" not in name}
    head = [] if tied else [("head", None, ["lm_head"])]
    *found, (role, _, norms) = names_by_group(model, decayed=decayed)
    assert found == [
        ("hidden", None, ["wi_0", "wi_1", "wo"] * 4),
        ("hidden", (0, 4), ["q", "k", "v"] * 6),
        ("hidden", (1, 4), ["o"] * 6),
        *head,
        ("rest", None, ["shared", "relative_attention_bias", "relative_attention_bias"]),
    ]
    assert role == "rest" and len(norms) == 12 and all(name.endswith("norm") for name in norms)


class Operations(TorchDispatchMode):
    """Notes what is launched, by name. Views are not; an operation on a list counts as one."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if not operation.is_view:
            self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(name: str, model: nn.Module) -> list[str]:
    """Of the second step, which finds its state made."""
    optimizer = optimizer_of(name, model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with Operations() as operations:
        optimizer.step()
    return operations.names


@pytest.mark.parametrize(
    ("name", "most"),
    [("t5_adafactor", 800), ("adamw_rms", 120), ("muon", 220), ("schedule_free", 120)],
)
def test_a_step_launches_few_operations(name, most, tokenizer):
    """A T5 of 52 parameters, whose attentions have 96 blocks in all."""
    model = tiny_model(tokenizer)
    assert len(list(model.parameters())) == 52
    assert len(operations_of_a_step(name, model)) < most


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_waits_for_a_number(name, tokenizer):
    """item() and a comparison stop the host until a GPU has done all that it was given."""
    with Operations() as operations:
        assert torch.ones(()) > 0
    assert "_local_scalar_dense" in operations.names  # what such a read is called
    assert "_local_scalar_dense" not in operations_of_a_step(name, tiny_model(tokenizer))


def train(model: nn.Module, optimizer, schedule, *, steps: range) -> None:
    for step in steps:
        if hasattr(optimizer, "train"):
            optimizer.train()
        ids = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("show_average", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_costs_no_bit(name, show_average):
    """Ten steps equal five, a save to disk, a load into new objects, and five more."""
    straight = TinyNet()
    straight_optimizer = optimizer_of(name, straight)
    straight_schedule = SCHEDULES["cosine_with_min_lr"](
        straight_optimizer, num_warmup_steps=3, num_training_steps=10
    )
    train(straight, straight_optimizer, straight_schedule, steps=range(5))
    if show_average and hasattr(straight_optimizer, "eval"):
        straight_optimizer.eval()
    saved = io.BytesIO()
    objects = (straight, straight_optimizer, straight_schedule)
    torch.save([copy.deepcopy(thing.state_dict()) for thing in objects], saved)
    train(straight, straight_optimizer, straight_schedule, steps=range(5, 10))

    saved.seek(0)
    resumed = TinyNet()
    optimizer = optimizer_of(name, resumed)
    schedule = SCHEDULES["cosine_with_min_lr"](optimizer, num_warmup_steps=3, num_training_steps=10)
    for thing, state in zip((resumed, optimizer, schedule), torch.load(saved), strict=True):
        thing.load_state_dict(state)
    train(resumed, optimizer, schedule, steps=range(5, 10))
    for (key, p), q in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), key


def test_both_rates_of_muon_follow_the_schedule():
    optimizer = optimizer_of("muon", TinyNet(), rest_scale=2.0, head_scale=3.0)
    schedule = SCHEDULES["cosine_with_min_lr"](
        optimizer, num_warmup_steps=0, num_training_steps=10, min_lr=0.002
    )
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.002, 0.006, 0.004, 0.004])


# ---- schedules ----------------------------------------------------------------------------------


def rates(name: str, *, lr: float, warmup: int, total: int, **settings) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = SCHEDULES[name](
        optimizer, num_warmup_steps=warmup, num_training_steps=total, **settings
    )
    found = []
    for _ in range(total):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_rsqrt_is_t5s_pre_training_schedule():
    expected = [1 / math.sqrt(max(step, 100)) for step in range(500)]
    assert rates("rsqrt", lr=1.0, warmup=100, total=500) == pytest.approx(expected)


def test_constant_has_a_warm_up_where_one_is_asked_for():
    assert rates("constant", lr=2.0, warmup=0, total=4) == [2.0] * 4
    assert rates("constant", lr=2.0, warmup=4, total=6) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_cosine_ends_at_nanot5s_floor():
    expected = [0.02 * step / 10 for step in range(10)] + [
        1e-5 + (0.02 - 1e-5) * (1 + math.cos(math.pi * step / 90)) / 2 for step in range(90)
    ]
    found = rates("cosine_with_min_lr", lr=0.02, warmup=10, total=100)
    assert found == pytest.approx(expected)


def test_warmup_stable_decay_spends_a_fifth_on_decay():
    expected = [step / 10 for step in range(10)] + [1.0] * 70
    expected += [1 - math.sqrt(step / 20) for step in range(20)]
    assert rates("warmup_stable_decay", lr=1.0, warmup=10, total=100) == pytest.approx(expected)
    linear = rates(
        *("warmup_stable_decay",),
        lr=1.0,
        warmup=0,
        total=10,
        num_decay_steps=5,
        decay_type="linear",
    )
    assert linear == pytest.approx([1.0] * 5 + [1.0, 0.8, 0.6, 0.4, 0.2])
    with pytest.raises(UserError, match="90 steps of warm-up and 20 of decay do not fit into 100"):
        rates("warmup_stable_decay", lr=1.0, warmup=90, total=100)


# ---- the trainer --------------------------------------------------------------------------------


def pre_training_words(folder, *, tokenizer_dir, optimizer: str) -> list[str]:
    """Five steps; a checkpoint after the second, which is not evaluated, and after the fourth."""
    text = folder / "text.txt"
    text.write_text("\n".join(make_sentences(300)) + "\n")
    return [
        *("--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"),
        *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"),
        *("--train_file", str(text), "--tokenizer_name", str(tokenizer_dir)),
        *("--tokenized_dataset_dir", str(folder / "tokens"), "--output_dir", str(folder / "out")),
        *("--input_seq_length", "32", "--per_device_train_batch_size", "4"),
        *("--max_steps", "5", "--save_steps", "2", "--eval_steps", "4", "--logging_steps", "1"),
        *("--optim", optimizer, "--save_total_limit", "9"),
    ]


@pytest.mark.parametrize("name", ["muon", "schedule_free", "adamw_torch_fused"])
def test_a_run_resumed_equals_one_never_stopped(name, tmp_path, tokenizer_dir):
    words = pre_training_words(tmp_path, tokenizer_dir=tokenizer_dir, optimizer=name)
    whole = pre_train_t5.main(words)
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    written = (tmp_path / "out" / "run.yaml").read_text()
    assert ("head_scale" in written) == (name == "muon")  # the rates of random weights
    words += ["--output_dir", str(tmp_path / "again")]
    again = pre_train_t5.main(
        [*words, "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-2")]
    )
    assert again["eval_loss"] == whole["eval_loss"]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights


def test_what_is_saved_is_the_average_whether_or_not_it_was_evaluated(tmp_path, tokenizer_dir):
    """Schedule-free: checkpoint-2 is saved without an evaluation before it, checkpoint-4 after."""
    words = pre_training_words(tmp_path, tokenizer_dir=tokenizer_dir, optimizer="schedule_free")
    best = pre_train_t5.main([*words, "--load_best_model_at_end", "--save_steps", "4"])
    folder = tmp_path / "never_evaluated"
    pre_train_t5.main([*words, "--output_dir", str(folder), "--do_eval=False"])
    for saved in ("checkpoint-4", "."):
        evaluated = tmp_path / "out" / saved / "model.safetensors"
        assert evaluated.read_bytes() == (folder / saved / "model.safetensors").read_bytes()
    state = torch.load(folder / "checkpoint-2" / "optimizer.pt")["state"]
    assert all("y" in of_parameter for of_parameter in state.values())
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert best["eval_loss"] == losses[5] < losses[4]


def test_settings_go_from_the_command_line_to_optimizer_and_schedule(tmp_path, tokenizer):
    (args,) = parse_flags(
        (PreTrainingArguments,),
        [
            *("--output_dir", str(tmp_path), "--use_cpu", "--optim", "muon", "--do_eval=False"),
            *("--optim_args", "momentum=0.5,rest_scale=3,head_scale=2"),
            *("--learning_rate", "0.5"),
            *("--adam_beta2", "0.9", "--weight_decay", "0.1", "--warmup_steps", "2"),
            *("--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", "min_lr=0.25"),
        ],
    )
    trainer = T5Trainer(model=tiny_model(tokenizer), args=args)
    trainer.create_optimizer_and_scheduler(10)
    found = [
        (group["role"], group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
    ]
    assert found[:3] == [("hidden", 0.5, 0.1)] * 3
    assert found[3:] == [("head", 1.0, 0.1), ("rest", 1.5, 0.1), ("rest", 1.5, 0.0)]
    for group in trainer.optimizer.param_groups:
        assert (group["momentum"], group["betas"]) == (0.5, (0.9, 0.9))
    rates = []
    for _ in range(11):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[:3] == [0.0, 0.25, 0.5] and rates[10] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config_name", "t5-v1_1-small"], 8.0),
        (["--config_name", "t5-v1_1-small", "--optim_args", "head_scale=1"], 1.0),
        ([], 4.0),
    ],
)
def test_random_weights_get_rates_that_a_checkpoint_does_not(words, expected, tmp_path, tokenizer):
    """Told in the line of the optimizer; `run.yaml`, made of optim_args, would repeat it."""
    flags = (PreTrainingModelArguments, PreTrainingArguments)
    model_args, args = parse_flags(flags, ["--output_dir", str(tmp_path), "--use_cpu", *words])
    if model_args.initialize_from_scratch:
        args.start_from_scratch()
    optimizer = make_optimizer(
        "muon",
        tiny_model(tokenizer),
        decayed=(),
        settings={"lr": 1.0},
        own_settings=read_settings(args.optim_args, flag="--optim_args"),
    )
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates["head"] == expected
    assert ("head_scale 8 (from scratch)" in args.optimization) == (expected == 8)


# ---- presets and settings -----------------------------------------------------------------------


def chosen(optimizer: str, stage: str = "pre_training", **given) -> dict:
    return given | complete(given, stage=stage, optimizer=optimizer)[0]


def test_a_preset_fills_in_what_was_not_given():
    values, line = complete(
        {"learning_rate": 0.5, "weight_decay": None}, stage="pre_training", optimizer="t5_adafactor"
    )
    assert set(values) == set(CHOSEN_BY_PRESET) - {"learning_rate"}
    assert values["warmup_steps"] == "10000"
    assert (values["lr_scheduler_type"], values["weight_decay"]) == ("rsqrt", 0.0)
    assert "learning_rate 0.5 (given)" in line and "pretrain.gin" in line
    assert chosen("t5_adafactor", "fine_tuning")["learning_rate"] == 1e-3


def test_every_own_optimizer_has_a_preset_with_a_source():
    for stage, presets in PRESETS.items():
        assert set(OPTIMIZERS) <= set(presets), stage
        for name, preset in presets.items():
            assert preset.source and preset.learning_rate > 0
            assert (preset.adam_beta1 is not None) == (name != "t5_adafactor")
            assert set(preset.lr_scheduler_kwargs) <= set(
                schedule_settings(preset.lr_scheduler_type)
            )


def test_zero_is_a_value_and_not_a_missing_one():
    values = chosen("adamw_rms", learning_rate=0.0, warmup_steps="0")
    assert (values["learning_rate"], values["warmup_steps"]) == (0.0, "0")


def test_rsqrt_brings_its_own_rate_to_any_optimizer():
    values = chosen("adamw_rms", lr_scheduler_type="rsqrt")
    assert (values["learning_rate"], values["warmup_steps"]) == (1.0, "10000")
    assert chosen("adamw_rms", lr_scheduler_type="rsqrt", warmup_steps="7")["warmup_steps"] == "7"


def test_the_rate_of_t5s_schedule_is_no_rate_for_another():
    """1.0 stands for 1 / sqrt(step); a cosine would begin at it."""
    values = chosen("t5_adafactor", lr_scheduler_type="cosine")
    assert (values["learning_rate"], values["warmup_steps"]) == (0.04, "0.1")
    assert chosen("adamw_rms", lr_scheduler_type="linear") == {
        **chosen("adamw_rms"),
        "lr_scheduler_type": "linear",
    }


@pytest.mark.parametrize(
    ("optimizer", "given", "sentence"),
    [
        ("lion_32bit", {}, "--optim lion_32bit has no preset for pre-training: give"),
        ("adamw_rms", {"weight_decay": -0.1}, "--weight_decay -0.1: expected 0 or more"),
        ("adamw_rms", {"learning_rate": math.nan}, "--learning_rate nan: expected 0 or more"),
        ("adamw_rms", {"adam_beta2": 1.0}, "--adam_beta2 1.0: expected 0 or more, and less than 1"),
        ("t5_adafactor", {"adam_beta1": 0.9}, "--adam_beta1 0.9 has no effect on --optim t5_ada"),
        ("sgd", {"learning_rate": 1.0, "adam_beta2": 0.9}, "has no effect on --optim sgd"),
        (
            "adamw_rms",
            {"lr_scheduler_type": "greedy", "warmup_steps": "5"},
            "--warmup_steps 5 has no effect on --lr_scheduler_type greedy",
        ),
    ],
)
def test_what_cannot_work_is_refused(optimizer, given, sentence):
    with pytest.raises(UserError) as error:
        chosen(optimizer, **given)
    assert sentence in str(error.value)


def test_settings_are_read_as_what_they_say():
    text = "momentum=0.9, update_rms=None,decay_type=1-sqrt,scale_parameters=False,steps=3"
    expected = {"momentum": 0.9, "update_rms": None, "decay_type": "1-sqrt"}
    expected |= {"scale_parameters": False, "steps": 3}
    assert read_settings(text, flag="--optim_args") == expected
    assert read_settings('{"min_lr": 1e-5}', flag="--x") == {"min_lr": 1e-5}
    assert read_settings(None, flag="--x") == {}
    for bad in ("momentum", "=3", "{min_lr: 3}"):
        with pytest.raises(UserError, match="--optim_args"):
            read_settings(bad, flag="--optim_args")


def test_settings_reach_the_optimizer():
    optimizer = optimizer_of("muon", TinyNet(), momentum=0.5, update_rms=0.2)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}
    own = ["momentum", "update_rms", "per_head", "head_scale", "rest_scale"]
    assert optimizer_settings("muon") == own
    assert optimizer_settings("adamw_torch") == []
    assert schedule_settings("constant_with_warmup") == schedule_settings("rsqrt") == []
    assert "num_cycles" in schedule_settings("cosine_with_restarts")
