"""Proves that a T5 v1.1 from scratch is one: a head of its own, the right first loss, and both
after saving and loading; that sentinels are found by name; that checkpoints only ever grow."""

import math

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.models.t5.modeling_t5 import T5Attention

from errors import UserError
from model_t5 import (
    bucket_distances,
    load_model,
    load_tokenizer,
    make_model,
    require_sentinels,
    sentinel_ids,
    token_bytes,
)

TINY = "d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4"


def make(
    tokenizer,
    *,
    shape="t5-v1_1-small",
    overrides=TINY,
    seed=0,
    dropout_rate=0.0,
    attention="random",
):
    return make_model(
        initial_attention=attention,
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


@pytest.mark.parametrize("num_buckets", [32, 33])
@pytest.mark.parametrize("both_ways", [True, False])
def test_bucket_distances_are_the_librarys(both_ways, num_buckets):
    """Each distance lies in a bucket whose least is not above it, and the next one's is."""
    least = torch.tensor(bucket_distances(num_buckets, max_distance=128, both_ways=both_ways))
    assert len(least) == num_buckets
    offsets = torch.arange(-200, 201 if both_ways else 1)
    buckets = T5Attention._relative_position_bucket(
        offsets, bidirectional=both_ways, num_buckets=num_buckets, max_distance=128
    )
    for offset, bucket in zip(offsets.tolist(), buckets.tolist(), strict=True):
        assert least[bucket] <= abs(offset) + 1e-4
        if (bucket + 1) % (num_buckets // 2 if both_ways else num_buckets):
            assert least[bucket + 1] > abs(offset)


@pytest.mark.parametrize("shape", ["t5-v1_1-small", "t5-small", "umt5"])
def test_heads_start_out_looking_near_and_nothing_else_changes(shape, tokenizer, tmp_path):
    """Token 12 of 16: the first head's weights are 1, the last one's (1 + distance)^-2.

    Buckets are exact for 8 tokens in the encoder and 16 in the decoder, which sees none behind.
    """
    if shape == "umt5":  # has biases of its own in each layer
        shape = str(tmp_path / "umt5")
        UMT5Config(num_heads=4, d_model=32, d_kv=8, d_ff=64).save_pretrained(shape)
    random, near = (make(tokenizer, shape=shape, attention=a) for a in ("random", "guided"))
    num_changed = 0
    others = dict(near.named_parameters())
    for name, weight in random.named_parameters():
        if "EncDecAttention.q" in name or "EncDecAttention.k" in name:
            continue
        if "relative_attention_bias" not in name:
            assert torch.equal(weight, others[name])
            continue
        num_changed += 1
        attention = near.get_submodule(name.removesuffix(".relative_attention_bias.weight"))
        attention.relative_attention_bias.weight.data -= weight.data
        bias = attention.compute_bias(16, 16).detach()[0]
        distances = (torch.arange(16) - 12).abs()
        if name.startswith("decoder"):
            distances[12] = 64  # itself
        seen = slice(5, None) if name.startswith("encoder") else slice(13)
        for head, slope in enumerate([0, 2 / 3, 4 / 3, 2]):
            expected = (1.0 + distances) ** -slope
            torch.testing.assert_close(bias[head, 12].exp()[seen], expected[seen])
    assert num_changed == (4 if "umt5" in shape else 2)


def test_cross_attention_starts_out_finding_the_same_token(tokenizer):
    """Before, a token's score with itself is as with any; then d_kv ** 0.5 more; the rest keeps 1.

    64 tokens of RMS 1, d_model 512, four heads of d_kv 64.
    """
    tokens = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    means = {}
    for attention in ("random", "guided"):
        model = make(tokenizer, overrides="num_layers=1,num_heads=4,d_ff=64", attention=attention)
        cross = model.decoder.block[0].layer[1].EncDecAttention
        q, k = ((tokens @ w.weight.detach().T).view(64, 4, 64) for w in (cross.q, cross.k))
        scores = torch.einsum("ihd,jhd->hij", q, k)
        others = scores[:, ~torch.eye(64, dtype=bool)]
        assert others.std().item() == pytest.approx(1, rel=0.1)
        means[attention] = scores.diagonal(dim1=1, dim2=2).mean().item()
    assert means["random"] == pytest.approx(0, abs=0.3)
    assert means["guided"] == pytest.approx(8, rel=0.1)
    assert cross.q.weight is not cross.k.weight and torch.equal(cross.q.weight, cross.k.weight)


def test_a_guided_model_is_a_plain_t5(tokenizer, tmp_path):
    model = make(tokenizer, attention="guided")
    model.save_pretrained(tmp_path)
    assert first_loss(
        load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0)
    ) == first_loss(model)


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


FAMILY = {"mt5": (MT5Config, MT5ForConditionalGeneration)}
FAMILY["umt5"] = (UMT5Config, UMT5ForConditionalGeneration)


def library_checkpoint(folder, *, kind, own_head):
    """A tiny mT5 or umT5 as its authors publish it (own head), or as the library trains it."""
    config_class, model_class = FAMILY[kind]
    config = config_class(vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    model = model_class(config)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(256, 32))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", FAMILY)
def test_mt5_and_umt5_keep_the_head_they_came_with(tokenizer, tmp_path, kind):
    model = library_checkpoint(tmp_path / "first", kind=kind, own_head=True)
    for source, target in (("first", "second"), ("second", "third")):
        loaded = load_model(
            name_or_path=str(tmp_path / source), tokenizer=tokenizer, dropout_rate=0.0
        )
        loaded.save_pretrained(tmp_path / target)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    tokenizer.add_tokens([f"new{i}" for i in range(100)])
    grown = load_model(name_or_path=str(tmp_path / "third"), tokenizer=tokenizer, dropout_rate=0.0)
    assert grown.lm_head.weight.shape == (384, 32)
    torch.testing.assert_close(grown.lm_head.weight[:256], model.lm_head.weight)


def head_input_over_decoder_output(model) -> float:
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        out = model.eval()(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    product = out.decoder_hidden_states[-1] @ model.lm_head.weight.T
    return (out.logits / product).median().item()


@pytest.mark.parametrize("kind", FAMILY)
def test_decoder_outputs_of_mt5_and_umt5_are_not_scaled(tokenizer, tmp_path, kind):
    library = library_checkpoint(tmp_path, kind=kind, own_head=True)
    ours = load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0)
    assert head_input_over_decoder_output(ours) == pytest.approx(1.0, rel=1e-4)
    if kind == "umt5":
        # The reason for the hook in model_t5.py. If this fails, the library has been mended.
        assert head_input_over_decoder_output(library) == pytest.approx(32**-0.5, rel=1e-4)


def test_a_head_that_the_library_had_tied_becomes_a_copy(tokenizer, tmp_path):
    model = library_checkpoint(tmp_path, kind="mt5", own_head=False)
    loaded = load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0)
    assert torch.equal(loaded.lm_head.weight, model.shared.weight)
    assert loaded.lm_head.weight is not loaded.shared.weight


def test_byt5_has_its_last_bytes_for_sentinels(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert sentinel_ids(tokenizer)[:2] == [258, 257] and len(sentinel_ids(tokenizer)) == 100
    assert make(tokenizer).config.vocab_size == 384
    sizes = token_bytes(tokenizer)
    assert sum(sizes[i] for i in tokenizer("a\u00e9 b").input_ids) == len("a\u00e9 b".encode())
    with pytest.raises(UserError, match="none can be added"):
        load_tokenizer(str(tmp_path), num_sentinels=200)


def test_sentinels_can_be_added(tokenizer_dir, tmp_path):
    before = load_tokenizer(str(tokenizer_dir))
    make(before).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tokenizer_dir), num_sentinels=180)
    ids = require_sentinels(tokenizer, needed=180)
    assert ids[:100] == sentinel_ids(before) and len(set(ids)) == 180
    assert tokenizer.decode([ids[0], ids[179]]) == "<extra_id_0><extra_id_179>"
    grown = load_model(name_or_path=str(tmp_path), tokenizer=tokenizer, dropout_rate=0.0)
    assert grown.get_input_embeddings().num_embeddings == 384
    again = load_tokenizer(str(tokenizer_dir), num_sentinels=50)
    assert len(again) == len(before)


def test_bytes_of_tokens(tokenizer):
    sizes = token_bytes(tokenizer)
    text = "the red cat sees the dog."
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert sum(sizes[i] for i in ids) == len(" " + text)  # SentencePiece puts a space in front
    more = load_tokenizer(tokenizer.name_or_path, num_sentinels=120)
    assert not any(token_bytes(more)[i] for i in sentinel_ids(more))


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
