"""What a run would need, without running it: memory per device under each engine, time and cost.

One training step of the very model is run on tensors that have a shape and no contents, and the
bytes alive at each moment are counted; the rest is arithmetic on the number of parameters. So a
T5-11B is planned in seconds on a laptop.
"""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig, PreTrainedModel

from attention_t5 import registered_attention
from flops_t5 import training_flops
from layers_t5 import with_fast_layers
from loss_t5 import answering_with, summed_loss, with_loss_head

GIGABYTE = 1e9
ADAM_BYTES = 8  # two float32 averages per parameter
FACTORED = ("t5_adafactor", "adafactor")


@dataclass(frozen=True)
class Need:
    """Bytes per device, and on the host for each device."""

    parameters: float
    gradients: float
    states: float
    activations: float
    buffers: float
    host: float = 0.0

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.states + self.activations + self.buffers


@dataclass(frozen=True)
class Model:
    """What the arithmetic needs to know; a decoder's block is the largest.

    The last two are the bytes alive at the worst moment of one step, the parameters themselves not
    counted: `plain_bytes` where every gradient is kept until the end, `shared_bytes` where each is
    given away as soon as it is there, as the engines that keep shares do. None: not traced.
    """

    num_parameters: int
    num_block_parameters: int
    num_root_parameters: int  # of no block: embeddings, head, last norms
    state_bytes: int
    is_bf16: bool
    plain_bytes: int | None = None
    shared_bytes: int | None = None

    @property
    def width(self) -> int:
        """Bytes of a number that DeepSpeed computes with."""
        return 2 if self.is_bf16 else 4


# ---- one step on tensors without contents -------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while they are alive."""

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """What a GPU chooses: flash attention, and the memory-efficient kernel, which alone adds a
    learned table, or is for float32."""
    if attn_mask is None and query.dtype != torch.float32:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


def _fused_dropout(
    states: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """What a GPU runs: it keeps one byte for each number, a CPU the number's own width."""
    return torch.native_dropout(states, p, True)[0] if training and p else states


@contextlib.contextmanager
def gpu_kernels() -> Iterator[None]:
    """Inside, shapes on a CPU go through the kernels that a GPU runs, which keep fewer bytes.

    A CPU has none for attention with a learned table: it would make all scores, and T5-base at
    512/114 with 128 examples would need 63.2 GB instead of 38.6.
    """
    fused = {"scaled_dot_product_attention": _fused_attention, "dropout": _fused_dropout}
    own = {name: getattr(functional, name) for name in fused}
    try:
        for name, kernel in fused.items():
            setattr(functional, name, kernel)
        yield
    finally:
        for name, kernel in own.items():
            setattr(functional, name, kernel)


def step_bytes(
    model: PreTrainedModel,
    *,
    num_examples: int,
    input_tokens: int,
    target_tokens: int,
    autocast: bool,
    keep_gradients: bool = True,
) -> int:
    """Peak of one forward, loss and backward pass over what the parameters take."""
    model.train()
    inputs = torch.ones((num_examples, input_tokens), dtype=torch.long)
    labels = torch.ones((num_examples, target_tokens), dtype=torch.long)
    hooks = []
    if not keep_gradients:
        hooks = [
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
            for p in model.parameters()
        ]
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        answer = functools.partial(summed_loss, labels=labels, z_loss=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            with answering_with(model, answer):
                outputs = model(input_ids=inputs, decoder_input_ids=labels)
        outputs.logits[0].backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return live.peak


def count_parameters(model: PreTrainedModel, *, optimizer: str, bf16: bool) -> Model:
    """What a model's parameters say, real or without contents; no step is traced."""
    shapes = [tuple(p.shape) for p in model.parameters()]
    number = sum(map(math.prod, shapes))
    stacks = (model.encoder.block, model.decoder.block)
    return Model(
        num_parameters=number,
        num_block_parameters=sum(p.numel() for p in model.decoder.block[0].parameters()),
        num_root_parameters=number - sum(p.numel() for s in stacks for p in s.parameters()),
        state_bytes=state_bytes(optimizer, shapes),
        is_bf16=bf16,
    )


def plan_model(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    num_examples: int,
    input_tokens: int,
    target_tokens: int,
    bf16: bool,
    optimizer: str,
    gradient_checkpointing: bool,
    use_cpu: bool,
    engine: str | None = None,
) -> Model:
    """Counts the model's parameters and the bytes of its step, without making either.

    A step takes seconds to trace: with an `engine`, only the one that this engine makes is.
    """
    attention = config._attn_implementation
    if attention == "t5_flex" and not use_cpu:  # its kernel runs on a GPU alone; no more than sdpa
        attention = registered_attention("sdpa", use_cpu=False)
    make = functools.partial(
        _empty, model_class, config, attention=attention, checkpointing=gradient_checkpointing
    )
    shape = {
        "num_examples": num_examples,
        "input_tokens": input_tokens,
        "target_tokens": target_tokens,
    }
    with FakeTensorMode(), contextlib.nullcontext() if use_cpu else gpu_kernels():
        model = make(torch.float32)
        counted = count_parameters(model, optimizer=optimizer, bf16=bf16)
        plain = shared = None
        if engine in (None, "DDP"):
            plain = step_bytes(model, autocast=bf16, **shape)
        if engine != "DDP":
            if bf16:  # DeepSpeed and FSDP compute in bfloat16 itself, without copies of weights
                model = make(torch.bfloat16)
            shared = step_bytes(model, autocast=False, keep_gradients=False, **shape)
    return replace(counted, plain_bytes=plain, shared_bytes=shared)


def _empty(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    attention: str,
    checkpointing: bool,
) -> PreTrainedModel:
    config.decoder_start_token_id = config.pad_token_id
    model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return with_fast_layers(with_loss_head(model))


def state_bytes(optimizer: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Bytes of the optimizer's states: Adafactor keeps rows and columns, others two averages."""
    if optimizer in FACTORED:
        return 4 * sum(sum(shape) if len(shape) == 2 else math.prod(shape) for shape in shapes)
    return ADAM_BYTES * sum(map(math.prod, shapes))


# ---- engines ------------------------------------------------------------------------------------


def ddp(model: Model, devices: int) -> Need:
    """A full copy everywhere, float32; with several devices the gradients once more, in buckets."""
    gradients = 4 * model.num_parameters
    return Need(
        parameters=4 * model.num_parameters,
        gradients=gradients,
        states=model.state_bytes,
        activations=max(model.plain_bytes - gradients, 0),
        buffers=gradients if devices > 1 else 0,
    )


def zero(model: Model, devices: int, *, stage: int, offload: bool = False) -> Need:
    """DeepSpeed's ZeRO: float32 master weights and states in shares, and by stage 2 the gradients,
    by stage 3 the weights. Adam alone; source: Rajbhandari et al. 2020, table 1, and DeepSpeed's
    buffers: two buckets of reduction, at stage 3 at most 1e9 weights gathered (our files' setting).
    """
    number, width = model.num_parameters, model.width
    share = number / devices
    master = 4 * share if model.is_bf16 else 0.0
    states = master + ADAM_BYTES * share
    step_gradients = 4 * share  # float32 gradients of the own share, while the optimizer steps
    bucket = min(number, 5e8) * width
    gathered = min(number, 1e9) * width if stage == 3 else 0.0
    weights = width * (share if stage == 3 else number)
    moved = states + step_gradients if offload else 0.0
    moved_weights = weights if offload and stage == 3 else 0.0
    return Need(
        parameters=weights - moved_weights,
        gradients=width * (share if stage >= 2 else number) + (0 if offload else step_gradients),
        states=0.0 if offload else states,
        activations=model.shared_bytes,
        buffers=2 * bucket + gathered,
        host=moved + moved_weights,
    )


def fsdp(model: Model, devices: int) -> Need:
    """FSDP2: float32 shares of all; two blocks gathered at a time, and the root's embeddings."""
    share = model.num_parameters / devices
    return Need(
        parameters=4 * share,
        gradients=4 * share,
        states=model.state_bytes / devices,
        activations=model.shared_bytes,
        buffers=model.width * (2 * model.num_block_parameters + model.num_root_parameters),
    )


ENGINES = {
    "DDP": ddp,
    "ZeRO-1": lambda model, devices: zero(model, devices, stage=1),
    "ZeRO-2": lambda model, devices: zero(model, devices, stage=2),
    "ZeRO-2 offload": lambda model, devices: zero(model, devices, stage=2, offload=True),
    "ZeRO-3": lambda model, devices: zero(model, devices, stage=3),
    "ZeRO-3 offload": lambda model, devices: zero(model, devices, stage=3, offload=True),
    "FSDP": fsdp,
}


# ---- what is printed ----------------------------------------------------------------------------


def memory_table(model: Model, *, devices: Sequence[int], device_bytes: float) -> str:
    """One line per engine and number of devices, in GB; the last column says whether it fits."""
    columns = ("parameters", "gradients", "states", "activations", "buffers", "total", "host")
    rows = [["GB per device", "devices", *columns, "fits"]]
    for name, engine in ENGINES.items():
        for number in devices:
            need = engine(model, number)
            cells = [f"{getattr(need, column) / GIGABYTE:.2f}" for column in columns]
            fits = "yes" if need.total <= device_bytes else "no"
            rows.append([name, str(number), *cells, fits])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def time_lines(
    *,
    step_flops: float,
    num_steps: int | None,
    most_devices: int,
    devices: Sequence[int],
    device_flops: float,
    utilisation: float,
    price_per_hour: float | None,
) -> list[str]:
    """Seconds per step, and hours and price of the whole run, for each number of devices."""
    lines = []
    for number in devices:
        seconds = step_flops / (number * device_flops * utilisation)
        line = f"{number:>6,} devices  {seconds:.3g} s/step"
        if num_steps is not None:
            hours = seconds * num_steps / 3600
            line += f"  {hours:,.1f} hours  {hours * number:,.0f} device hours"
            if price_per_hour is not None:
                line += f"  {hours * number * price_per_hour:,.0f} of --plan_price"
        if number > most_devices:
            line += f"  (the batch fills {most_devices:,}: fewer examples on each, or a larger one)"
        lines.append(line)
    return lines


def print_plan(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    examples_per_device: int,
    accumulation: int,
    num_ranks: int,
    input_tokens: int,
    target_tokens: int,
    bf16: bool,
    optimizer: str,
    gradient_checkpointing: bool,
    num_steps: int | None,
    devices: Sequence[int],
    device_name: str,
    device_flops: float,
    device_bytes: float,
    utilisation: float,
    price_per_hour: float | None,
) -> None:
    """Prints parameters, a step's tokens and arithmetic, memory per engine, time and cost.

    The batch of a step is that of the flags, whatever the number of devices, for the time; for the
    memory each device holds `examples_per_device`.
    """
    model = plan_model(
        model_class,
        config,
        num_examples=examples_per_device,
        input_tokens=input_tokens,
        target_tokens=target_tokens,
        bf16=bf16,
        optimizer=optimizer,
        gradient_checkpointing=gradient_checkpointing,
        use_cpu=False,
    )
    examples = examples_per_device * accumulation * num_ranks
    flops = training_flops(
        config, num_examples=examples, input_tokens=input_tokens, target_tokens=target_tokens
    )
    precision = "bfloat16" if bf16 else "float32"
    print(
        f"model      {model.num_parameters:,} parameters, computing in {precision}\n"
        f"step       {examples:,} examples, {examples * input_tokens:,} encoder and "
        f"{examples * target_tokens:,} decoder tokens, {flops:.3g} operations\n"
        f"devices    {device_name}: {device_bytes / GIGABYTE:.0f} GB, "
        f"{device_flops / 1e12:.0f}e12 operations/s, of which {utilisation:.0%} are used; "
        f"{examples_per_device} examples on each\n"
    )
    print(memory_table(model, devices=devices, device_bytes=device_bytes))
    steps = "" if num_steps is None else f", {num_steps:,} steps"
    print(f"\ntime       a batch of {examples:,} examples shared by all devices{steps}")
    for line in time_lines(
        step_flops=flops,
        num_steps=num_steps,
        most_devices=accumulation * num_ranks,
        devices=devices,
        device_flops=device_flops,
        utilisation=utilisation,
        price_per_hour=price_per_hour,
    ):
        print(line)
