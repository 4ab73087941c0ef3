"""Proves that mixtures draw components by weight as a function of the example, lose no token,
keep to one raw window, and that every mistake in one gets a sentence."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import chisquare

from arguments_t5 import PRE_TRAINING
from corruption_t5 import OBJECTIVES, span_corruption
from errors import UserError
from flags import parse_flags
from masking_units import Units
from noise_masks import ExampleRng
from objective_mixtures import (
    MIXTURES,
    OBJECTIVE_NAMES,
    make_mixture,
    make_objective,
    parse_components,
)

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"mlm_probability": 0.15, "mean_noise_span_length": 3.0, "random_roll": False}
MODE_IDS = {"[NLU]": [90, 91, 92, 93], "[S2S]": [90, 94], "[NLG]": [95]}


def rng_of(num: int, *, seed: int = 1) -> ExampleRng:
    return ExampleRng(seed=seed, epochs=np.zeros(num, dtype=int), examples=np.arange(num))


def make(components, *, input_length_tokens=512, units=None, **defaults):
    return make_mixture(
        MIXTURES[components] if isinstance(components, str) else components,
        input_length_tokens=input_length_tokens,
        defaults={**DEFAULTS, **defaults},
        mode_ids=MODE_IDS.__getitem__,
        extras={"units": units, "ordinary_ids": np.arange(3, 90)},
    )


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("units", [None, Units(lambda tokens, rng: tokens % 3 > 0, True)])
@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("input_length", [24, 128, 512])
def test_no_token_is_lost_whichever_component_is_drawn(name, input_length, roll, units):
    mixture = make(name, input_length_tokens=input_length, units=units, random_roll=roll)
    assert mixture.input_length_tokens <= input_length
    sentinels = np.arange(999, 999 - mixture.num_sentinels, -1)
    num = 150
    for length in {1, 2, 3, mixture.raw_length_tokens}:
        tokens = np.arange(num)[:, None] * 1000 + np.arange(length) + 1000
        inputs, targets = mixture.corrupt(tokens, rng=rng_of(num), sentinels=sentinels)
        assert inputs.lengths.max() + 1 <= mixture.input_length_tokens
        assert targets.lengths.max() + 1 <= mixture.target_length_tokens
        for row, wrote, target in zip(tokens, inputs.split(), targets.split(), strict=True):
            both = [*wrote.tolist(), *target.tolist()]
            assert sorted(t for t in both if t >= 1000) == row.tolist()


def test_the_window_is_the_longest_that_all_can_write():
    mixture = make("ul2")
    assert mixture.raw_length_tokens == 564  # span corruption of 508 inputs and 4 mode tokens
    usual = span_corruption(input_length_tokens=508, noise_density=0.15, mean_noise_span_length=3.0)
    assert usual.raw_length_tokens == 564
    assert mixture.num_sentinels <= 100  # T5's vocabulary is enough at 512


def test_each_component_writes_its_own_way():
    mixture = make("ul2", input_length_tokens=64)
    sentinels = np.arange(999, 999 - mixture.num_sentinels, -1)
    tokens = np.tile(np.arange(mixture.raw_length_tokens) + 1000, (300, 1))
    inputs, targets = mixture.corrupt(tokens, rng=rng_of(300), sentinels=sentinels)
    chosen = mixture.choose(rng_of(300))
    for number, wrote, target in zip(chosen, inputs.split(), targets.split(), strict=True):
        name = mixture.names[number]
        mode = MODE_IDS[{"r": "[NLU]", "s": "[S2S]", "x": "[NLG]"}[name[0]]]
        assert wrote[: len(mode)].tolist() == mode
        hidden = np.count_nonzero(target >= 1000)
        share = int(name.rpartition("_")[2]) / 100
        assert abs(hidden - share * tokens.shape[1]) <= 1
        if name == "s_25":  # the beginning, <0>; then the rest without a sentinel
            visible = tokens.shape[1] - hidden
            assert wrote[len(mode) :].tolist() == [*tokens[0, :visible].tolist(), 999]
            assert target.tolist() == tokens[0, visible:].tolist()
        else:
            assert target[0] == 999
    assert len(set(chosen.tolist())) == 7


def test_components_are_drawn_by_weight():
    mixture = make([{"objective": "iid_drop", "weight": w} for w in (1, 3, 0, 6)])
    counts = Counter(mixture.choose(rng_of(20_000)).tolist())
    assert mixture.shares == (0.1, 0.3, 0.6)  # a weight of 0 is left out
    expected = [20_000 * share for share in mixture.shares]
    assert chisquare([counts[n] for n in range(3)], expected).pvalue > 1e-3
    assert mixture.names == ("iid_drop", "iid_drop_2", "iid_drop_3")


def test_what_is_drawn_is_a_function_of_the_example():
    mixture = make("ul2", input_length_tokens=64)
    sentinels = np.arange(999, 899, -1)
    tokens = np.arange(40)[:, None] * 1000 + np.arange(mixture.raw_length_tokens) + 1000
    inputs, targets = mixture.corrupt(tokens, rng=rng_of(40), sentinels=sentinels)
    for row in range(40):
        alone = mixture.corrupt(
            tokens[row : row + 1], rng=rng_of(40).rows(np.array([row])), sentinels=sentinels
        )
        np.testing.assert_array_equal(alone[0].ids, inputs.split()[row])
        np.testing.assert_array_equal(alone[1].ids, targets.split()[row])


def test_a_mixture_can_be_sent_to_a_worker():
    mixture = make("ul2r", input_length_tokens=64)
    assert pickle.loads(pickle.dumps(mixture)).names == mixture.names


def test_components_take_what_they_leave_out_from_the_flags():
    mixture = make(
        [
            {"objective": "span_corruption"},
            {"objective": "span_corruption", "mlm_probability": 0.3},
        ],
        mlm_probability=0.5,
        mean_noise_span_length=8.0,
    )
    hidden = [objective.noise_mask.keywords["noise_density"] for objective in mixture.components]
    means = {o.noise_mask.keywords["mean_noise_span_length"] for o in mixture.components}
    assert hidden == [0.5, 0.3] and means == {8.0}


def test_a_mode_token_that_fills_the_inputs():
    with pytest.raises(UserError, match="--input_seq_length 6 leaves no room"):
        make("ul2", input_length_tokens=6)


@pytest.mark.parametrize(
    ("components", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "expected components"),
        ("3", "expected components"),
        ([3], "expected {objective: NAME"),
        ([{"weight": 1}], "expected {objective: NAME"),
        ([{"objective": "prefix_ml"}], "no objective 'prefix_ml'. Did you mean prefix_lm?"),
        ([{"objective": "ul2"}], "no objective 'ul2'"),
        ([{"objective": "prefix_lm", "wieght": 1}], "no 'wieght'. Did you mean weight?"),
        (
            [{"objective": "iid_drop", "mean_noise_span_length": 3}],
            "iid_drop has no 'mean_noise_span_length'",
        ),
        ({"span_corruption": 0, "prefix_lm": 0}, "the weights of all 2 components are 0"),
        ({"span_corruption": -1}, "weight -1: expected a number of at least 0"),
        ({"span_corruption": "much"}, "weight 'much': expected a number"),
        ({"span_corruption": float("inf")}, "expected a number of at least 0"),
        ({"span_corruption": float("nan")}, "expected a number of at least 0"),
        ([{"objective": "iid_drop", "mlm_probability": 1}], "a number between 0 and 1"),
        ([{"objective": "prefix_lm", "suffix_share": 0}], "a number between 0 and 1"),
        (
            [{"objective": "span_corruption", "mean_noise_span_length": 0.5}],
            "a number of at least 1",
        ),
        ([{"objective": "prefix_lm", "mode_token": 3}], "mode_token 3 is no text"),
        ([{"objective": "span_corruption", "random_roll": "yes"}], "random_roll 'yes': expected"),
    ],
)
def test_a_mistake_gets_one_sentence(components, sentence):
    text = components if isinstance(components, str) else json.dumps(components)
    with pytest.raises(UserError) as error:
        parse_components(text)
    assert sentence in str(error.value)


def parse(*words):
    return parse_flags(PRE_TRAINING, ["--train_file", "x.txt", *words])[1]


def test_a_mixture_in_a_recipe_and_on_the_command_line(tmp_path):
    given = [{"objective": "span_corruption", "weight": 3}, {"objective": "prefix_lm"}]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"objective": "mixture", "objective_mixture": given}))
    _, data, _ = parse_flags(PRE_TRAINING, [str(recipe), "--train_file", "x.txt"])
    assert data.components() == given
    words = ["--objective", "mixture", "--objective_mixture", '{"iid_drop": 2, "prefix_lm": 1}']
    assert [c["weight"] for c in parse(*words).components()] == [2, 1]
    assert [c["name"] for c in parse("--objective", "ul2").components()][0] == "r_3_15"
    assert parse().components() is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--objective", "mixture"], "go together"),
        (["--objective_mixture", '{"prefix_lm": 1}'], "go together"),
        (["--masking", "pmi"], "--masking pmi and --pmi_vocab_path FILE go together"),
        (["--pmi_vocab_path", "x"], "--masking pmi and --pmi_vocab_path FILE go together"),
        (["--objective", "ul3"], "invalid choice: 'ul3'"),
        (["--masking", "words"], "invalid choice: 'words'"),
    ],
)
def test_flags_that_do_not_fit(words, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(*words)


def test_the_table_of_lengths_in_the_docs():
    """Every row of docs/objectives.md: raw tokens, inputs, targets, sentinels at 512."""
    text = (ROOT / "docs" / "objectives.md").read_text()
    rows = re.findall(r"^\| ([\w, ]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    seen = set()
    for names, *numbers in rows:
        name, *others = names.split(", ")
        units = {"whole words": Units(None, True), "PMI": Units(None, False)}.get(
            (others or [None])[0]
        )
        also = [other for other in others if other in OBJECTIVES]
        for objective_name in (name, *also):
            settings = {**DEFAULTS, "random_roll": "random_roll" in others}
            if objective_name in MIXTURES:
                mode_ids = {"[NLU]": range(4), "[S2S]": range(5), "[NLG]": range(4)}
                objective = make_mixture(
                    MIXTURES[objective_name],
                    input_length_tokens=512,
                    defaults=settings,
                    mode_ids=mode_ids.__getitem__,
                    extras={},
                )
            else:
                objective = make_objective(
                    objective_name,
                    input_length_tokens=512,
                    settings=settings,
                    extras={"units": units, "ordinary_ids": None},
                )
            found = [
                objective.raw_length_tokens,
                objective.input_length_tokens,
                objective.target_length_tokens,
                objective.num_sentinels,
            ]
            assert found == [int(number) for number in numbers], names
            seen.add(objective_name)
    assert seen == set(OBJECTIVE_NAMES) - {"mixture"}
