"""Training steps on a CUDA device that only pretends; the program of test_fake_cuda.py.

python tests/fake_cuda_steps.py LIBRARY

Fake tensors have a shape, a type and a device, and no numbers: an operation on tensors of two
devices raises, and so does whatever needs a number, which on a GPU would be waited for.
"""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

# Before torch looks for devices.
for name in ("libc10.so", "libtorch_cpu.so"):
    library = Path(find_spec("torch").origin).parent / "lib" / name
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL).add_device()

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import functools  # noqa: E402
import itertools  # noqa: E402

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402

from attention_t5 import registered_attention  # noqa: E402
from layers_t5 import with_fast_layers  # noqa: E402
from loss_t5 import answering_with, summed_loss, with_loss_head  # noqa: E402
from optimizer_t5 import make_optimizer  # noqa: E402

torch.autograd.set_multithreading_enabled(False)  # the device has no thread of its own
torch.cuda.amp.common.amp_definitely_not_available = lambda: False
torch.cuda.is_bf16_supported = lambda: True

# Torch's fused AdamW works in place and has no such kernel for a rate that is a tensor.
without_numbers = torch.library.Library("aten", "IMPL", "Meta")
without_numbers.impl("_fused_adamw_.tensor_lr", lambda *tensors, **settings: None)


def make_model(attention: str) -> T5ForConditionalGeneration:
    config = T5Config(
        **{"vocab_size": 256, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2},
        **{"num_heads": 4, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1},
        **{"decoder_start_token_id": 0, "use_cache": False},
    )
    config._attn_implementation = registered_attention(attention, use_cpu=False)
    with torch.device("cuda"):
        return with_fast_layers(with_loss_head(T5ForConditionalGeneration(config))).train()


def step(model, optimizer, *, is_padded: bool) -> None:
    inputs = torch.ones((4, 32), dtype=torch.long, device="cuda")
    labels = torch.ones((4, 14), dtype=torch.long, device="cuda")
    batch = {"input_ids": inputs, "decoder_input_ids": labels}
    if is_padded:
        batch["attention_mask"] = inputs
    answer = functools.partial(summed_loss, labels=labels, z_loss=1e-4, label_smoothing=0.1)
    with torch.autocast("cuda", torch.bfloat16), answering_with(model, answer):
        loss, _ = model(**batch).logits
    (loss / (labels != -100).sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()


def main() -> None:
    optimizers = ("adamw_rms", "muon", "schedule_free", "t5_adafactor")
    for attention, name, is_padded in itertools.product(
        ("lean", "sdpa"), optimizers, (False, True)
    ):
        with FakeTensorMode():
            model = make_model(attention)
            optimizer = make_optimizer(
                name,
                model,
                decayed={parameter for parameter, _ in model.named_parameters()},
                settings={"lr": 0.01, "weight_decay": 0.0, "betas": (0.9, 0.99), "eps": 1e-6},
                own_settings={},
            )
            for _ in range(2):  # the first makes the optimizer's state
                step(model, optimizer, is_padded=is_padded)
        assert all(parameter.device.type == "cuda" for parameter in model.parameters())
        print("steps", attention, name, "padded" if is_padded else "full", flush=True)


if __name__ == "__main__":
    main()
