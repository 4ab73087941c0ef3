"""Proves that a T5 v1.1 from scratch is one: a head of its own, the right first loss, and both
after saving and loading; that sentinels are found by name; that checkpoints only ever grow."""

import math

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, MT5Config, MT5ForConditionalGeneration

from errors import UserError
from model_t5 import load_model, load_tokenizer, make_model, require_sentinels, sentinel_ids

TINY = "d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4"


def make(tokenizer, *, shape="t5-v1_1-small", overrides=TINY, seed=0, dropout_rate=0.0):
    return make_model(
        shape=shape,
        tokenizer=tokenizer,
        dropout_rate=dropout_rate,
        seed=seed,
        config_overrides=overrides,
    )


def first_loss(model) -> float:
    ids = torch.randint(3, 200, (8, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids).loss.item()


def test_v1_1_has_a_head_of_its_own(tokenizer):
    model = make(tokenizer)
    assert model.lm_head.weight is not model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight
    assert model.decoder.embed_tokens.weight is model.shared.weight
    assert model.lm_head.weight.std().item() == pytest.approx(32**-0.5, rel=0.05)
    # Logits of variance 1 add half a nat to the loss of a uniform guess.
    assert first_loss(model) == pytest.approx(math.log(model.config.vocab_size) + 0.5, abs=0.3)


def test_t5_1_0_ties_its_head_and_scales(tokenizer):
    model = make(tokenizer, shape="t5-small")
    assert model.lm_head.weight is model.shared.weight
    assert first_loss(model) < math.log(model.config.vocab_size) + 3


def test_the_head_survives_saving_and_the_librarys_own_loader(tokenizer, tmp_path):
    model = make(tokenizer)
    model.save_pretrained(tmp_path)
    for loaded in (
        load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0),
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path),
    ):
        assert first_loss(loaded) == first_loss(model)
        assert loaded.config.architectures == ["T5ForConditionalGeneration"]
    ours = load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.25)
    assert ours.lm_head.weight is not ours.shared.weight
    assert ours.encoder.block[0].layer[0].dropout.p == 0.25


def test_mt5_keeps_the_head_it_came_with(tokenizer, tmp_path):
    config = MT5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    model = MT5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(256, 32))
    model.save_pretrained(tmp_path / "first")
    for source, target in (("first", "second"), ("second", "third")):
        loaded = load_model(
            name_or_path=str(tmp_path / source), tokenizer=tokenizer, dropout_rate=0.0
        )
        loaded.save_pretrained(tmp_path / target)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_weights_are_a_function_of_the_seed_alone(tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = make(tokenizer), make(tokenizer), make(tokenizer, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.shared.weight, other.shared.weight)


def test_embeddings_grow_to_a_multiple_of_128_and_never_shrink(tokenizer, tmp_path):
    model = make(tokenizer)
    rows = model.config.vocab_size
    assert rows % 128 == 0 and rows >= len(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.add_tokens([f"new{i}" for i in range(rows)])
    grown = load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0)
    assert grown.get_input_embeddings().num_embeddings % 128 == 0
    assert grown.get_input_embeddings().num_embeddings >= len(tokenizer) > rows
    assert grown.lm_head.weight is not grown.shared.weight
    torch.testing.assert_close(grown.shared.weight[:rows], model.shared.weight)


def test_overrides_derive_what_follows(tokenizer):
    model = make(tokenizer, overrides=TINY + ",feed_forward_proj=relu")
    assert not model.config.is_gated_act and model.config.num_decoder_layers == 2
    model = make(tokenizer, overrides=TINY + ",num_decoder_layers=1")
    assert (len(model.encoder.block), len(model.decoder.block)) == (2, 1)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("d_modl=3", "Did you mean d_model?"),
        ("d_model", "expected field=value"),
        ("d_model=big", "expected a whole number, found big"),
    ],
)
def test_overrides_that_do_not_fit(tokenizer, overrides, sentence):
    with pytest.raises(UserError) as error:
        make(tokenizer, overrides=overrides)
    assert sentence in str(error.value)


def test_sentinels_are_found_by_name(tokenizer):
    ids = sentinel_ids(tokenizer)
    assert len(ids) == 100
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["<extra_id_0>", "<extra_id_1>"]
    tokenizer.add_tokens(["one more"])  # arithmetic on the length would now be off by one
    assert sentinel_ids(tokenizer) == ids
    with pytest.raises(UserError, match="needs 101 sentinel tokens .* has 100"):
        require_sentinels(tokenizer, needed=101)


def test_t5s_own_vocabulary(shared_data):
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "t5"))
    assert sentinel_ids(tokenizer)[:2] == [32099, 32098]
    assert tokenizer("<extra_id_0>. Hello").input_ids == [32099, 3, 5, 8774, 1]
    assert make(tokenizer).config.vocab_size == 32128


def test_a_folder_without_a_model(tmp_path, tokenizer):
    (tmp_path / "config.json").write_text("{}")
    for load in (
        lambda: load_tokenizer(str(tmp_path / "none")),
        lambda: load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0),
    ):
        with pytest.raises(UserError):
            load()
