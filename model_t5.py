"""Tokenizers and models: from a checkpoint of the T5 family, or from a shape alone."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    ByT5Tokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar

from attention_t5 import registered_attention
from constants import MODEL_SHAPES
from errors import UserError, did_you_mean
from hub import use_hub
from layers_t5 import with_fast_layers
from lora_t5 import adapter_base, merged_with_adapters
from token_files_t5 import special_ids

logger = logging.getLogger(__name__)

EMBEDDING_MULTIPLE = 128
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
BYT5_SENTINELS = 100
WORD_MARK = "\u2581"  # SentencePiece's sign for a space
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")  # what a byte without a piece of its own becomes


# ---- tokenizers ---------------------------------------------------------------------------------


def load_tokenizer(
    name_or_path: str, *, num_sentinels: int | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub repository, with at least `num_sentinels` sentinels."""
    folder = Path(name_or_path)
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(
            f"The folder {name_or_path} holds no tokenizer ({' or '.join(TOKENIZER_FILES)}). Give "
            "one that does with --tokenizer_name, or make one with train_tokenizer_t5.py."
        )
    try:
        _reach(name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            _unreachable("tokenizer", name_or_path, error)
            + " Give a folder with --model_name_or_path or --tokenizer_name, or make one with "
            "train_tokenizer_t5.py."
        ) from error
    # Published configurations may ask for it: 'it .' would be read back as 'it.', and scored so.
    tokenizer.clean_up_tokenization_spaces = False
    if num_sentinels is not None:
        _add_sentinels(tokenizer, up_to=num_sentinels)
    return tokenizer


def _add_sentinels(tokenizer: PreTrainedTokenizerBase, *, up_to: int) -> None:
    if isinstance(tokenizer, ByT5Tokenizer):
        raise UserError(
            f"--num_sentinels {up_to}: ByT5's sentinels are its last {BYT5_SENTINELS} byte ids; "
            "none can be added. Leave it out."
        )
    names = [f"<extra_id_{n}>" for n in range(len(sentinel_ids(tokenizer)), up_to)]
    new = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(new, special_tokens=True)


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the sentinels, the first span's first: <extra_id_0>, <extra_id_1>, ... by name.

    ByT5 was trained with its last bytes instead, 258, 257, ... downwards (seqio's ByteVocabulary
    has no extra ids, and T5 counts sentinels down from the end of the vocabulary).
    """
    if isinstance(tokenizer, ByT5Tokenizer):
        last = tokenizer.vocab_size + tokenizer.offset - 1
        return list(range(last, last - BYT5_SENTINELS, -1))
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    while f"<extra_id_{len(ids)}>" in vocabulary:
        ids.append(vocabulary[f"<extra_id_{len(ids)}>"])
    return ids


def require_sentinels(tokenizer: PreTrainedTokenizerBase, *, needed: int) -> list[int]:
    """The sentinel ids, or the reason why the objective cannot be written with them."""
    ids = sentinel_ids(tokenizer)
    if len(ids) < needed:
        more = "" if isinstance(tokenizer, ByT5Tokenizer) else f"Type --num_sentinels {needed}, or "
        raise UserError(
            f"The objective needs {needed} sentinel tokens per example, and the tokenizer "
            f"{tokenizer.name_or_path} has {len(ids)} (<extra_id_0>, ...). {more}"
            "use a shorter --input_seq_length, a smaller --mlm_probability or a longer "
            "--mean_noise_span_length."
        )
    return ids


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many bytes of text each id stands for, [vocabulary]; special tokens stand for none.

    Text that became <unk> is not counted, so bits per byte are a little too high where it occurs.
    ByT5's sentinels are bytes, and count as such.
    """
    special = set(special_ids(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if isinstance(tokenizer, ByT5Tokenizer):
        return [int(number not in special) for number in range(len(pieces))]
    return [
        0
        if number in special
        else 1
        if BYTE_PIECE.fullmatch(piece)
        else len(piece.replace(WORD_MARK, " ").encode())
        for number, piece in enumerate(pieces)
    ]


# ---- models -------------------------------------------------------------------------------------


def start_model(
    *,
    name_or_path: str,
    shape: str | None,
    tokenizer: PreTrainedTokenizerBase,
    dropout_rate: float,
    seed: int,
    use_cpu: bool,
    config_overrides: str | None = None,
    attn_implementation: str = "auto",
    initial_attention: str = "random",
) -> PreTrainedModel:
    """A model from random weights where a shape is given, else from a checkpoint.

    `initial_attention` is a name of `INITIAL_ATTENTION`; a checkpoint keeps its own.
    """
    disable_progress_bar()  # the library's bars for each file would bury the run's own
    attn_implementation = registered_attention(attn_implementation, use_cpu=use_cpu)
    settings = {
        "tokenizer": tokenizer,
        "dropout_rate": dropout_rate,
        "config_overrides": config_overrides,
        "attn_implementation": attn_implementation,
    }
    if shape is None:
        return load_model(name_or_path=name_or_path, **settings)
    return make_model(shape=shape, seed=seed, initial_attention=initial_attention, **settings)


def load_model(
    *,
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    dropout_rate: float,
    config_overrides: str | None = None,
    attn_implementation: str = "eager",
) -> PreTrainedModel:
    """A checkpoint of the T5 family in float32, with an embedding row for every token.

    The embedding only ever grows, to a multiple of 128 rows. A folder of adapters is loaded as the
    model it belongs to, with the adapters added to its weights.
    """
    base = adapter_base(name_or_path)
    if base is not None:
        model = load_model(
            name_or_path=base,
            tokenizer=tokenizer,
            dropout_rate=dropout_rate,
            config_overrides=config_overrides,
            attn_implementation=attn_implementation,
        )
        return merged_with_adapters(model, name_or_path)
    config = _load_config(name_or_path)
    config = _override(config, config_overrides, dropout_rate=dropout_rate)
    try:
        model, found = _model_class(config).from_pretrained(
            name_or_path,
            config=config,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        changed = f" (with --config_overrides {config_overrides})" if config_overrides else ""
        raise UserError(
            _unreachable("model", name_or_path, error) + changed + " " + MODEL_REMEDY
        ) from error
    if _has_own_head(config) and "lm_head.weight" in found["missing_keys"]:
        # The library trains a v1.1, mT5 or umT5 from scratch with a tied head and leaves it out.
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=EMBEDDING_MULTIPLE)
    return _finished(model, tokenizer)


def make_model(
    *,
    shape: str,
    tokenizer: PreTrainedTokenizerBase,
    dropout_rate: float,
    seed: int,
    config_overrides: str | None = None,
    attn_implementation: str = "eager",
    initial_attention: str = "random",
) -> PreTrainedModel:
    """A randomly initialised model of a named shape, or of the config in a folder or repository.

    The vocabulary is the tokenizer's, rounded up to a multiple of 128. A T5 v1.1 gets an output
    head of its own with standard deviation d_model ** -0.5, as flaxformer's `logits_dense` has it;
    transformers would tie it to the embedding without T5 1.0's output scaling, and start at a loss
    of some 120 nats instead of ln(vocabulary).
    """
    config = T5Config(**MODEL_SHAPES[shape]) if shape in MODEL_SHAPES else _load_config(shape)
    config = _override(config, config_overrides, dropout_rate=dropout_rate)
    if "vocab_size=" in (config_overrides or ""):
        raise UserError(
            f"--config_overrides {config_overrides}: vocab_size follows from the tokenizer "
            f"({len(tokenizer)} tokens); leave it out."
        )
    config.vocab_size = -(-len(tokenizer) // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _model_class(config)(config)
        if _has_own_head(config):
            torch.nn.init.normal_(model.lm_head.weight, std=config.d_model**-0.5)
    INITIAL_ATTENTION[initial_attention](model)
    return _finished(model, tokenizer)


STEEPEST = 2.0


@torch.no_grad()
def look_near(model: PreTrainedModel) -> None:
    """Lowers the relative position biases by slope log(1 + distance), slopes 0 ... 2 over heads.

    A head of slope s gives a token at distance d the weight (1 + d)^-s of one at distance 0, before
    contents matter: the first head looks everywhere, the last one at its neighbours. With four:

        distance        0     1     2     3     7
        slope 0         1     1     1     1     1
        slope 2/3       1  0.63  0.48  0.40  0.25
        slope 4/3       1  0.40  0.23  0.16  0.06
        slope 2         1  0.25  0.11  0.06  0.02

    In the decoder, a token itself counts as half of `max_distance` away: what it is it knows from
    the residual, so that heads look at the token before.

    Biases are trained as ever after. Slopes that differ from head to head: Press et al. 2022
    (ALiBi), arXiv 2108.12409; logarithm of the distance: Chi et al. 2022 (KERPLE), arXiv
    2205.09921. Both keep them as the architecture; here they are where training begins.
    """
    for side in (model.encoder, model.decoder):
        for module in side.modules():
            biases = getattr(module, "relative_attention_bias", None)
            if biases is not None:
                distances = bucket_distances(
                    biases.num_embeddings,
                    max_distance=module.relative_attention_max_distance,
                    both_ways=side is model.encoder,
                )
                if side is model.decoder:
                    distances[0] = module.relative_attention_max_distance / 2
                slopes = torch.linspace(0, STEEPEST, biases.embedding_dim)
                biases.weight -= torch.tensor(distances).log1p()[:, None] * slopes


def bucket_distances(num_buckets: int, *, max_distance: int, both_ways: bool) -> list[float]:
    """The least distance in tokens that falls into each of T5's buckets of relative positions.

    Half of them are exact, the rest grow by a constant factor up to `max_distance`; the encoder has
    a first half for tokens before and a second one for tokens behind. 8 buckets up to 16, one way:

        bucket      0   1   2   3   4     5   6      7
        distance    0   1   2   3   4   5.7   8   11.3

    Of an odd number the encoder never uses the last one; it stands here at 0.
    """
    num = num_buckets // 2 if both_ways else num_buckets
    exact = num // 2
    growth = (max_distance / exact) ** (1 / (num - exact))
    distances = [float(i) if i < exact else exact * growth ** (i - exact) for i in range(num)]
    return distances * 2 + [0.0] * (num_buckets % 2) if both_ways else distances


@torch.no_grad()
def look_for_the_same(model: PreTrainedModel) -> None:
    """Makes queries and keys of cross attention equal, so that a sentinel finds itself.

    Its query and key are then one vector of d_kv entries: a score of about d_kv ** 0.5 with itself,
    as ever about 1 with others. Both projections are the key's, scaled so that scores keep their
    variance (the library's query has d_kv ** -0.5 of the key's deviation). They are trained apart.
    Source: Trockman and Kolter 2023, arXiv 2305.09828, who begin with queries and keys alike.
    """
    for name, module in model.decoder.named_modules():
        if name.endswith("EncDecAttention"):
            module.k.weight *= module.key_value_proj_dim**-0.25
            module.q.weight.copy_(module.k.weight)


def _guide(model: PreTrainedModel) -> None:
    look_near(model)
    look_for_the_same(model)


def _leave(model: PreTrainedModel) -> None:
    """The library's: all projections and biases drawn at random."""


INITIAL_ATTENTION: dict[str, Callable[[PreTrainedModel], None]] = {
    "guided": _guide,
    "random": _leave,
}


def shape_of(
    *,
    name_or_path: str,
    shape: str | None,
    dropout_rate: float,
    use_cpu: bool,
    config_overrides: str | None = None,
    attn_implementation: str = "auto",
) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class and the config that `start_model` would make a model of, without making it."""
    wanted = shape or adapter_base(name_or_path) or name_or_path
    config = T5Config(**MODEL_SHAPES[wanted]) if wanted in MODEL_SHAPES else _load_config(wanted)
    config = _override(config, config_overrides, dropout_rate=dropout_rate)
    config._attn_implementation = registered_attention(attn_implementation, use_cpu=use_cpu)
    return _model_class(config), config


MODEL_REMEDY = (
    "Without network give a folder: --model_name_or_path FOLDER; or start from random weights: "
    "--initialize_from_scratch --config_name t5-v1_1-small --tokenizer_name FOLDER."
)


def _unreachable(what: str, name_or_path: str, error: Exception) -> str:
    if Path(name_or_path).is_dir():
        found = sorted(p.name for p in Path(name_or_path).iterdir())
        reason = str(error).splitlines()[0]
        return f"The folder {name_or_path} holds no {what} that loads ({found}): {reason}."
    return (
        f"The {what} {name_or_path} is neither a folder here nor could it be fetched from the "
        "Hugging Face Hub (unreachable, misspelt, or private)."
    )


def _reach(name_or_path: str) -> None:
    """Looks for the Hub once, if the name is no folder, so that no library waits for it."""
    if not Path(name_or_path).is_dir():
        use_hub()


def _load_config(name_or_path: str) -> PretrainedConfig:
    try:
        _reach(name_or_path)
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        shapes = did_you_mean(name_or_path, MODEL_SHAPES)
        raise UserError(
            _unreachable("model configuration", name_or_path, error) + shapes + " " + MODEL_REMEDY
        ) from error


DERIVED_FIELDS = ("dense_act_fn", "is_gated_act", "scale_decoder_outputs")


def _override(
    config: PretrainedConfig, overrides: str | None, *, dropout_rate: float
) -> PretrainedConfig:
    """The config with `a=1,b=2` applied, and all that follows from these fields derived again."""
    changes: dict[str, object] = {"dropout_rate": dropout_rate}
    for item in filter(None, (part.strip() for part in (overrides or "").split(","))):
        name, found_equals, text = item.partition("=")
        known = [key for key in config.to_dict() if key not in DERIVED_FIELDS]
        if not found_equals or name not in known:
            raise UserError(
                f"--config_overrides {item}: expected field=value with a field of "
                f"{type(config).__name__}.{did_you_mean(name, known)}"
            )
        changes[name] = _parse_like(getattr(config, name), text, flag=item)
    if "num_layers" in changes:
        changes.setdefault("num_decoder_layers", changes["num_layers"])
    fields = {key: value for key, value in config.to_dict().items() if key not in DERIVED_FIELDS}
    fields["tie_word_embeddings"] = not _has_own_head(config)
    return type(config).from_dict({**fields, **changes})


def _parse_like(current: object, text: str, *, flag: str) -> object:
    """`text` as a value of the type that the field has now."""
    if isinstance(current, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"--config_overrides {flag}: expected true or false, found {text}.")
        return text.lower() == "true"
    if isinstance(current, (int, float)):
        try:
            return type(current)(text)
        except ValueError:
            kind = "a whole number" if isinstance(current, int) else "a number"
            raise UserError(f"--config_overrides {flag}: expected {kind}, found {text}.") from None
    return text


def _has_own_head(config: PretrainedConfig) -> bool:
    """True for T5 v1.1 and its kin: unscaled decoder outputs go into a head of their own."""
    own = config.model_type in ("mt5", "umt5")
    return own or not getattr(config, "scale_decoder_outputs", True)


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The library's class for this config; where the head is its own, one that never ties it."""
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{config.model_type} is no encoder-decoder model this project can train; it trains "
            "the T5 family (T5, T5 v1.1, mT5, umT5, ByT5, FLAN-T5)."
        )
    library_class = AutoModelForSeq2SeqLM._model_mapping[type(config)]
    if not _has_own_head(config):
        return library_class
    tied = dict(library_class._tied_weights_keys)
    tied.pop("lm_head.weight", None)
    attributes = {"_tied_weights_keys": tied, "__module__": library_class.__module__}
    return type(library_class.__name__, (library_class,), attributes)


def _multiply_input(module: torch.nn.Module, inputs: tuple, *, factor: float) -> tuple:
    return (inputs[0] * factor, *inputs[1:])


def _finished(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model with start, end and padding as the tokenizer has them, for forward and generate.

    The library scales umT5's decoder outputs by d_model ** -0.5, which belongs to a tied head;
    umT5 has its own, which undoes it here.
    """
    if model.config.model_type == "umt5":
        unscale = functools.partial(_multiply_input, factor=model.config.d_model**0.5)
        model.lm_head.register_forward_pre_hook(unscale)
    for settings in (model.config, model.generation_config):
        settings.pad_token_id = tokenizer.pad_token_id
        settings.eos_token_id = tokenizer.eos_token_id
        if getattr(settings, "decoder_start_token_id", None) is None:
            settings.decoder_start_token_id = tokenizer.pad_token_id
    # Tied copies are not in a checkpoint; this tells the Trainer not to miss them. A head that is
    # tied by class but not in fact (mT5's) is none of them.
    named = dict(model.named_parameters(remove_duplicate=False))
    tied = model._tied_weights_keys.items()
    model._keys_to_ignore_on_save = [copy for copy, of in tied if named[copy] is named[of]]
    return with_fast_layers(model)
