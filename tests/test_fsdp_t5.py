"""Proves that a model is ready for FSDP2's shares with the same weights under the same names;
tests/cluster/test_fsdp.py trains with them."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from errors import UserError
from fsdp_t5 import share_one_embedding
from lora_t5 import with_adapters


def tiny_model() -> T5ForConditionalGeneration:
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=16, decoder_start_token_id=0, **shape))


def test_encoder_and_decoder_call_one_module():
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert model.encoder.embed_tokens is not model.shared  # else this module is not needed
    share_one_embedding(model)
    assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_adapters_are_refused_before_anything_is_trained():
    settings = {"rank": 2, "alpha": None, "dropout_rate": 0.0, "seed": 0}
    model = with_adapters(tiny_model(), target_modules="q,v", **settings)
    with pytest.raises(UserError, match="Adapters .* under FSDP.*many_gpus.yaml"):
        share_one_embedding(model)
