"""Proves that the scores are T5's published ones and those of sklearn and scipy to 1e-6, that an
invalid answer is simply wrong, that inputs stay as they were, and that degenerate inputs give
defined numbers without a warning.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import scipy.stats
import sklearn.metrics
from absl.testing import parameterized

from errors import UserError
from metrics import (
    METRICS,
    accuracy,
    exact_match,
    f1,
    f1_macro,
    find_metric,
    matthews,
    pearson,
    precision,
    recall,
    score,
    spearman,
)

BINARY = (accuracy, f1, f1_macro, precision, recall, matthews)
NUMERIC = (pearson, spearman)


def value_of(function, targets, predictions, **options) -> float:
    (value,) = function(targets, predictions, **options).values()
    return value


class MetricTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        catcher = warnings.catch_warnings()
        catcher.__enter__()
        self.addCleanup(catcher.__exit__, None, None, None)
        warnings.simplefilter("error")

    @parameterized.parameters(  # t5/evaluation/metrics_test.py
        (accuracy, [0, 0, 2, 1], [0, 1, 2, 1], 75.0),
        (matthews, [0, 0, 2, 1], [0, 1, 2, 1], 70.0),
        (f1, [0, 1, 1, 0], [0, 1, 2, 2], 50.0),
        (f1, [1, 1, 0], [1, 0, 1], 50.0),  # the answers of its MultiRC test
        (f1_macro, [0, 1, 1, 2], [0, 0, 2, 2], 44.44444444444444),
        (pearson, [0, 2], [0, 1], 100.0),
        (spearman, [0, 2, 1], [0, 1, 2], 50.0),
        (exact_match, ["a b.", "a c."], ["a b.", "a b."], 50.0),  # its sequence_accuracy
    )
    def test_published_values_of_t5(self, function, targets, predictions, value):
        self.assertAlmostEqual(value_of(function, targets, predictions), value, delta=1e-6)

    @parameterized.parameters(*range(20))
    def test_binary_against_sklearn(self, seed):
        rng = random.Random(seed)
        targets = [rng.choice([0, 1]) for _ in range(50)]
        answers = [rng.choice([-1, 0, 1, 1]) for _ in targets]
        self.assertIn(-1, answers)  # the interesting case was met
        opposite = np.where(np.isin(answers, [0, 1]), answers, 1 - np.array(targets))
        for function, expected in (
            (accuracy, sklearn.metrics.accuracy_score(targets, answers)),
            (f1, sklearn.metrics.f1_score(targets, opposite)),
            (precision, sklearn.metrics.precision_score(targets, opposite)),
            (recall, sklearn.metrics.recall_score(targets, opposite)),
            (matthews, sklearn.metrics.matthews_corrcoef(targets, answers)),
        ):
            self.assertAlmostEqual(value_of(function, targets, answers), 100 * expected, delta=1e-6)

    @parameterized.parameters(*range(20))
    def test_macro_f1_against_its_definition(self, seed):
        rng = random.Random(seed)
        targets = [rng.choice([0, 0, 1, 2]) for _ in range(30)]
        answers = [rng.choice([-1, 0, 1, 2]) for _ in targets]
        of_class = []
        for label in range(3):
            hits = sum(t == a == label for t, a in zip(targets, answers, strict=True))
            of_class.append(2 * hits / (targets.count(label) + answers.count(label)))
        expected = 100 * sum(of_class) / 3
        self.assertAlmostEqual(value_of(f1_macro, targets, answers), expected, delta=1e-6)
        with_labels = value_of(f1_macro, targets, answers, labels=[0, 1, 2])
        self.assertAlmostEqual(with_labels, expected, delta=1e-6)

    def test_macro_f1_counts_the_task_s_classes(self):
        self.assertEqual(value_of(f1_macro, [0, 1], [0, 1]), 100.0)
        of_three = value_of(f1_macro, [0, 1], [0, 1], labels={0: "a", 1: "b", 2: "c"})
        self.assertAlmostEqual(of_three, 200 / 3, delta=1e-6)  # as T5's num_classes=3

    @parameterized.parameters(*range(20))
    def test_correlations_against_scipy(self, seed):
        rng = np.random.default_rng(seed)
        targets = np.round(rng.uniform(0, 5, 40), 1).tolist()
        errors = rng.normal(size=40)
        answers = [t + e if e < 1 else -1.0 for t, e in zip(targets, errors, strict=True)]
        self.assertIn(-1.0, answers)
        expected = 100 * scipy.stats.pearsonr(targets, answers)[0]
        self.assertAlmostEqual(value_of(pearson, targets, answers), expected, delta=1e-6)
        expected = 100 * scipy.stats.spearmanr(targets, answers)[0]
        self.assertAlmostEqual(value_of(spearman, targets, answers), expected, delta=1e-6)

    @parameterized.parameters(-1, 2, "yes", None)
    def test_an_invalid_answer_is_wrong_in_either_class(self, invalid):
        for function, answers, value in (
            (f1, [1, invalid, 0], 200 / 3),
            (f1, [1, 1, invalid], 80.0),
            (precision, [1, 1, invalid], 200 / 3),
            (recall, [1, invalid, 0], 50.0),
            (accuracy, [1, 1, invalid], 200 / 3),
        ):
            self.assertAlmostEqual(value_of(function, [1, 1, 0], answers), value, delta=1e-6)

    @parameterized.parameters(*BINARY, *NUMERIC, exact_match)
    def test_no_rows(self, function):
        self.assertEqual(value_of(function, [], []), 0.0)

    @parameterized.parameters(
        (f1, [0, 0], [0, 0], 0.0),
        (precision, [1, 1], [0, 0], 0.0),
        (recall, [0, 0], [1, 1], 0.0),
        (f1, [1, 1], [1, 1], 100.0),
        (f1_macro, [0, 0], [0, 0], 100.0),
        (f1_macro, [0, 0], [-1, -1], 0.0),
        (accuracy, [0, 0], [0, 0], 100.0),
        (matthews, [1, 1], [1, 1], 0.0),
        (matthews, [0, 1], [1, 1], 0.0),
        (matthews, [1, 1], [0, 1], 0.0),
        (matthews, [1], [1], 0.0),
    )
    def test_one_class_only(self, function, targets, predictions, value):
        self.assertEqual(value_of(function, targets, predictions), value)

    @parameterized.product(
        function=NUMERIC,
        sides=(
            ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
            ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
            ([2.0, 2.0], [2.0, 2.0]),
            ([2.0], [2.0]),
        ),
    )
    def test_constant_numbers(self, function, sides):
        self.assertEqual(value_of(function, *sides), 0.0)

    def test_infinite_numbers(self):
        self.assertEqual(value_of(pearson, [1.0, 2.0, 3.0], [float("inf"), 1.0, 2.0]), 0.0)

    @parameterized.parameters(*NUMERIC)
    def test_nearly_constant_and_huge_numbers_do_not_warn(self, function):
        for answers in ([1e16, 1e16 + 2, 1e16], [1.0, 1.0 + 1e-15, 1.0], [1e308, -1e308, 1e308]):
            self.assertTrue(np.isfinite(value_of(function, [1.0, 2.0, 3.0], answers)))

    @parameterized.parameters(*BINARY)
    def test_inputs_stay_as_they_were(self, function):
        lists = [0, 1, 1, 0], [0, -1, 1, 1]
        function(*lists)
        self.assertEqual(lists, ([0, 1, 1, 0], [0, -1, 1, 1]))

    @parameterized.parameters(*BINARY, *NUMERIC)
    def test_values_are_plain_floats(self, function):
        self.assertIs(type(value_of(function, [0, 1, 1, 0], [0, 1, 0, 0])), float)

    @parameterized.parameters(f1, precision, recall)
    def test_three_classes_are_refused(self, function):
        with self.assertRaisesRegex(UserError, "targets hold 2. Use f1_macro"):
            function([0, 1, 2], [0, 1, 2])

    @parameterized.parameters(*BINARY, *NUMERIC, exact_match)
    def test_lists_of_different_length_are_a_defect(self, function):
        with self.assertRaises(AssertionError):
            function([0, 1, 0], [0, 1])


class ScoreTest(parameterized.TestCase):
    def test_each_score_has_the_name_it_was_asked_by(self):
        names = ["mcc", "matthews_correlation", "matthews", "accuracy", "f1"]
        scores = score(names, [0, 1, 1, 0], [0, 1, 0, 0])
        self.assertEqual(list(scores), names)
        self.assertAlmostEqual(scores["mcc"], 57.73502691896258, delta=1e-6)
        self.assertEqual(scores["mcc"], scores["matthews"])
        self.assertEqual(scores["mcc"], scores["matthews_correlation"])
        self.assertEqual(scores["accuracy"], 75.0)

    def test_labels_reach_the_metric_that_takes_them(self):
        self.assertAlmostEqual(
            score(["f1_macro"], [0, 1], [0, 1], labels=range(3))["f1_macro"], 200 / 3, delta=1e-6
        )

    def test_unknown_name(self):
        with self.assertRaisesRegex(UserError, r"no metric 'acuracy'.*Did you mean accuracy\?"):
            score(["acuracy"], [0], [0])

    @parameterized.parameters(*METRICS)
    def test_table(self, name):
        metric = find_metric(name)
        self.assertTrue(metric.greater_is_better)
        self.assertAlmostEqual(score([name], [0, 1], [0, 1])[name], 100.0, delta=1e-6)
