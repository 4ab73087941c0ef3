"""Proves that an evaluation's table says what was scored and which is best, and is read back."""

import pytest

from evaluation_tables_t5 import TableReader, evaluation_table, rows_of

ONE_SET = {"eval_loss": 3.607, "eval_token_accuracy": 33.371, "eval_runtime": 2.0, "epoch": 1.0}
TWO_SETS = {
    "eval_cola_loss": 0.2,
    "eval_cola_matthews": 71.3,
    "eval_mnli_matched_loss": 0.15,
    "eval_mnli_matched_accuracy": 76.9,
    "eval_mnli_matched_samples_per_second": 9.0,
    "eval_loss": 0.18,
    "eval_mean": 74.1,
}


def test_rows_are_the_sets():
    assert rows_of(TWO_SETS) == {
        "": {"loss": 0.18, "mean": 74.1},
        "cola": {"loss": 0.2, "matthews": 71.3},
        "mnli_matched": {"loss": 0.15, "accuracy": 76.9},
    }
    assert rows_of({"eval_token_accuracy": 1.0, "eval_own_metric": 2.0}) == {
        "": {"token_accuracy": 1.0, "own_metric": 2.0}
    }


def test_one_set_stands_beside_its_best():
    before = (600, {"eval_loss": 3.823, "eval_token_accuracy": 32.7})
    table = evaluation_table(ONE_SET, where="step 1,200/2,400", before=before, is_best=True)
    assert table == (
        "held out   step 1,200/2,400     loss  token_accuracy\n"
        "           now                 3.607          33.371  <- best\n"
        "           best, step 600      3.823          32.700"
    )


def test_several_sets_stand_below_each_other():
    assert evaluation_table(TWO_SETS, where="step 250/500", before=(9, ONE_SET)) == (
        "held out   step 250/500     loss  matthews  accuracy     mean\n"
        "           cola            0.200    71.300\n"
        "           mnli_matched    0.150              76.900\n"
        "           all             0.180                       74.100"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval_loss", 0.18),
        ("eval_mean", 74.1),
        ("eval_cola_matthews", 71.3),
        ("eval_cola_accuracy", None),
        ("eval_mnli_matched_accuracy", 76.9),
        ("eval_f1", None),
    ],
)
def test_values_are_read_back(name, value):
    reader = TableReader(name)
    lines = evaluation_table(TWO_SETS, where="step 250/500").splitlines()
    found = [reader.read(line) for line in ["step 250/500  loss 1.0", *lines, "the end 1.0"]]
    assert [v for v in found if v is not None] == ([] if value is None else [value])


def test_a_loss_that_went_far_off_is_read_whole():
    reader = TableReader("eval_loss")
    table = evaluation_table({"eval_loss": 12345.678, "eval_bleu": 1.0}, where="step 1/2")
    assert [reader.read(line) for line in table.splitlines()] == [None, 12345.678]


def test_only_the_newest_of_a_running_training_is_read():
    reader = TableReader("eval_loss")
    tables = [
        evaluation_table(ONE_SET, where="step 2/4", before=(1, {"eval_loss": 9.0}), is_best=True),
        evaluation_table({"eval_loss": 1.0}, where="after training"),
        "held out   a sample\n           now 5.000",
    ]
    found = [reader.read(line) for line in "\n".join(tables).splitlines()]
    assert [value for value in found if value is not None] == [3.607]
