"""Proves that the page's answers are the model's: fillings with their probability, label words with
their share; the page itself is tested in a browser (tests/browser)."""

import json
import math
import socket
from types import SimpleNamespace

import pytest
import torch

import explore_t5
from errors import UserError
from explore_t5 import (
    Explored,
    Filling,
    answer_task,
    fill_blanks,
    labels_as_html,
    typed_tasks,
    ways_as_html,
    with_sentinels,
)
from model_t5 import make_model, sentinel_ids
from tasks import find_task


@pytest.fixture(scope="module")
def explored(tokenizer_dir):
    from model_t5 import load_tokenizer

    tokenizer = load_tokenizer(str(tokenizer_dir))
    shape = "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"
    settings = {"shape": "t5-v1_1-small", "dropout_rate": 0.0, "seed": 0}
    model = make_model(**settings, tokenizer=tokenizer, config_overrides=shape)
    return Explored("tiny", model.eval(), tokenizer)


def test_blanks_become_sentinels_in_their_order(tokenizer):
    text, ids = with_sentinels("The ___ sees <BLANK>, __.", tokenizer=tokenizer)
    assert text == "The <extra_id_0> sees <extra_id_1>, <extra_id_2>."
    assert tokenizer.convert_ids_to_tokens(ids) == [f"<extra_id_{n}>" for n in range(3)]
    with pytest.raises(UserError, match="Mark what is missing with ___"):
        with_sentinels("The _ cat", tokenizer=tokenizer)
    with pytest.raises(UserError, match="101 blanks.* has 100 sentinels"):
        with_sentinels("__ " * 101, tokenizer=tokenizer)


def test_fillings_stand_where_the_blanks_were(tokenizer):
    def ids(text: str) -> list[int]:
        return [0, *tokenizer(text, add_special_tokens=False).input_ids]

    texts = [
        "<extra_id_0> cat<extra_id_1> a dog<extra_id_2>",
        "<extra_id_0> cat<extra_id_1> a dog</s>",
        "<extra_id_1> the bird</s>",
    ]
    rows = [ids(text) for text in texts]
    longest = max(map(len, rows))
    sequences = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    scores = torch.tensor([0.125, 0.25, 0.5]).log()
    written = SimpleNamespace(sequences=sequences, sequences_scores=scores)
    model = SimpleNamespace(generate=lambda **settings: written, device="cpu")
    found = fill_blanks(Explored("stub", model, tokenizer), "the ___ sees ___.")
    assert found == [
        Filling(pytest.approx(0.5), ("the", "", "sees", "the bird", ".")),
        Filling(pytest.approx(0.375), ("the", "cat", "sees", "a dog", ".")),
    ]
    assert found[1].fillings == ("cat", "a dog")


def test_probabilities_are_the_models_own(explored):
    """Those of the written tokens one after another, by a plain forward pass."""
    written = []

    def generate(**settings):
        written.append(explored.model.generate(**settings))
        return written[-1]

    model = SimpleNamespace(generate=generate, device="cpu")
    ways = fill_blanks(Explored("x", model, explored.tokenizer), "the ___", most_tokens=4)
    inputs = explored.encode("the <extra_id_0>")
    total = 0.0
    ends = [explored.tokenizer.eos_token_id, *sentinel_ids(explored.tokenizer)[1:]]
    for row in written[0].sequences:
        length = next((n for n, token in enumerate(row.tolist(), 1) if token in ends), len(row))
        row = row[:length]
        logits = explored.model(input_ids=inputs, decoder_input_ids=row[None, :-1]).logits[0]
        steps = logits.log_softmax(-1).gather(1, row[1:, None])
        total += steps.sum().exp().item()
    assert len(written[0].sequences) == 5
    assert sum(way.probability for way in ways) == pytest.approx(total, rel=1e-4)


def test_ways_come_with_the_best_first(explored):
    ways = fill_blanks(explored, "the ___ sees a ___.", most_tokens=8)
    assert all(a.probability >= b.probability for a, b in zip(ways, ways[1:], strict=False))
    assert sum(way.probability for way in ways) <= 1 and len(ways[0].fillings) == 2


def test_shares_of_labels_are_those_of_their_likelihoods(explored):
    task = find_task("glue", "sst2")  # two words of much the same length: neither is certain
    found = answer_task(explored, task, ["a cat sees"], most_tokens=32)
    assert found.read == "sst2 sentence: a cat sees" and 0.01 < min(found.labels.values())
    inputs = explored.encode(found.read)
    likelihoods = {}
    for word in task.labels.values():
        labels = explored.encode(word)
        loss = explored.model(input_ids=inputs, labels=labels.contiguous()).loss
        likelihoods[word] = math.exp(-loss.item() * labels.shape[1])
    total = sum(likelihoods.values())
    assert found.labels == pytest.approx({w: v / total for w, v in likelihoods.items()}, rel=1e-3)
    assert list(found.labels.values()) == sorted(found.labels.values(), reverse=True)


def test_a_task_without_words_is_written(explored):
    found = answer_task(explored, find_task("summarization", "xsum"), ["the cat"], most_tokens=4)
    assert found.labels == {} and found.read == "summarize: the cat"


def test_only_tasks_that_can_be_typed_are_offered():
    tasks = typed_tasks("recipes/word_order.yaml")
    assert next(iter(tasks)) == "word_order/word_order"
    assert {"glue/sst2", "super_glue/cb", "qa/squad"} <= set(tasks)
    assert not {"super_glue/record", "super_glue/wsc"} & set(tasks)


def test_an_own_task_with_more_columns_than_boxes_gets_one_sentence(tmp_path):
    columns = list("abcdefg")
    entry = {"prefix": columns, "text_column_name": columns, "label_column_name": "y"}
    entry |= {"labels": None, "metric_to_optimize": "accuracy", "metric_names": ["accuracy"]}
    (tmp_path / "seven.yaml").write_text(json.dumps(entry))
    with pytest.raises(UserError, match=r"cannot be typed.*at most 6 columns.*Leave"):
        typed_tasks(str(tmp_path / "seven.yaml"))


def test_what_was_typed_is_no_markup():
    shown = ways_as_html([Filling(0.25, ("<b>", "<i>", "."))])
    assert "<b>" not in shown and "<mark>&lt;i&gt;</mark>" in shown and "25.0 %" in shown
    assert "&lt; 0.1 %" in ways_as_html([Filling(0.0004, ("a", "b", "c"))])
    assert labels_as_html({}) == "" and "75.0 %" in labels_as_html({"yes": 0.75})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "MODEL"),
        (["a", "b"], r"unrecognized arguments: b.*python explore_t5.py MODEL"),
        (["a", "--port", "0x"], "--port"),
        (["a", "--port", "99999999"], "--port 99999999 cannot be used"),
    ],
)
def test_mistakes_get_one_sentence(words, sentence, monkeypatch):
    monkeypatch.setattr(explore_t5.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=sentence):
        explore_t5.main(words)


def test_a_port_that_is_taken_a_folder_without_a_model_no_gradio(tmp_path, monkeypatch):
    monkeypatch.setattr(explore_t5.importlib.util, "find_spec", lambda name: object())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used here.*Give another"):
            explore_t5.main(["a", "--port", str(taken.getsockname()[1])])
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match="holds no tokenizer"):
        explore_t5.main([str(tmp_path), "--port", str(port)])
    monkeypatch.setattr(explore_t5.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gradio"):
        explore_t5.main([str(tmp_path)])
