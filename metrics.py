"""Scores of answers against targets, in 0–100 (correlations in -100–100).

Every function takes `(targets, predictions)`, two lists of the same length, and returns a
dictionary. Text became an answer before (`tasks.Task.answer`): a label's index, a number, or a
text. An answer that is no label is -1 and simply wrong.

Where a score is not defined it is 0.0, never nan, and nothing warns: no rows at all, no positive
row for precision, recall and F1, and a correlation (matthews, pearson, spearman) with fewer than
two different values on one of the two sides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from errors import UserError, did_you_mean

Scores = dict[str, float]


def accuracy(targets: Sequence, predictions: Sequence) -> Scores:
    """Returns the share of answers that equal their target, of any type."""
    return {"accuracy": _share_equal(targets, predictions)}


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Returns the share of texts that equal their target to the letter."""
    return {"exact_match": _share_equal(targets, predictions)}


def _share_equal(targets: Sequence, predictions: Sequence) -> float:
    assert len(targets) == len(predictions)
    equal = sum(
        target == prediction for target, prediction in zip(targets, predictions, strict=True)
    )
    return 100.0 * equal / len(targets) if targets else 0.0


def f1(targets: Sequence[int], predictions: Sequence[int]) -> Scores:
    """Returns F1 of class 1 (t5/evaluation/metrics.py, f1_score_with_invalid)."""
    return {"f1": _of_positive_class("f1_score", targets, predictions)}


def precision(targets: Sequence[int], predictions: Sequence[int]) -> Scores:
    """Returns the share of answers 1 that are right."""
    return {"precision": _of_positive_class("precision_score", targets, predictions)}


def recall(targets: Sequence[int], predictions: Sequence[int]) -> Scores:
    """Returns the share of targets 1 that are found."""
    return {"recall": _of_positive_class("recall_score", targets, predictions)}


def _of_positive_class(name: str, targets: Sequence[int], predictions: Sequence[int]) -> float:
    import sklearn.metrics

    assert len(targets) == len(predictions)
    others = sorted({str(target) for target in targets if target not in (0, 1)})
    if others:
        raise UserError(
            f"f1, precision and recall are for the labels 0 and 1, but the targets hold "
            f"{', '.join(others[:5])}. Use f1_macro or accuracy in metric_names."
        )
    if not targets:
        return 0.0
    # An invalid answer becomes the opposite of its target, so that it is wrong in either class.
    binary = [
        prediction if prediction in (0, 1) else 1 - target
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return 100.0 * float(getattr(sklearn.metrics, name)(targets, binary, zero_division=0.0))


def f1_macro(
    targets: Sequence[int], predictions: Sequence[int], *, labels: Iterable[int] | None = None
) -> Scores:
    """Returns the unweighted mean of the classes' F1 (T5's mean_multiclass_f1).

    The classes are `labels`, the task's, or those among the targets. A class of `labels` that
    neither side ever names counts as 0, as it does in T5.
    """
    import sklearn.metrics

    assert len(targets) == len(predictions)
    if not targets:
        return {"f1_macro": 0.0}
    classes = sorted(set(targets) if labels is None else labels)
    score = sklearn.metrics.f1_score(
        targets, predictions, labels=classes, average="macro", zero_division=0.0
    )
    return {"f1_macro": 100.0 * float(score)}


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> Scores:
    """Returns Matthews correlation; invalid answers are one more class, as in T5."""
    import sklearn.metrics

    return {"matthews": _correlation(sklearn.metrics.matthews_corrcoef, targets, predictions)}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> Scores:
    """Returns Pearson correlation."""
    import scipy.stats

    return {"pearson": _correlation(_first_of(scipy.stats.pearsonr), targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> Scores:
    """Returns Spearman rank correlation."""
    import scipy.stats

    return {"spearman": _correlation(_first_of(scipy.stats.spearmanr), targets, predictions)}


def _first_of(function: Callable) -> Callable:
    return lambda targets, predictions: function(targets, predictions)[0]


def _correlation(function: Callable, targets: Sequence, predictions: Sequence) -> float:
    assert len(targets) == len(predictions)
    if len(set(targets)) < 2 or len(set(predictions)) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant or huge numbers
        value = float(function(targets, predictions))
    return 100.0 * value if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Metric:
    """A function of targets and predictions, and the direction of its score."""

    function: Callable[..., Scores]
    greater_is_better: bool = True
    takes_labels: bool = False  # the function has a keyword `labels`, the task's label indices


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy),
    "exact_match": Metric(exact_match),
    "f1": Metric(f1),
    "f1_macro": Metric(f1_macro, takes_labels=True),
    "precision": Metric(precision),
    "recall": Metric(recall),
    "matthews": Metric(matthews),
    "matthews_correlation": Metric(matthews),
    "matthews_corrcoef": Metric(matthews),
    "mcc": Metric(matthews),
    "pearson": Metric(pearson),
    "pearson_corrcoef": Metric(pearson),
    "spearman": Metric(spearman),
    "spearman_corrcoef": Metric(spearman),
}


def find_metric(name: str) -> Metric:
    """Returns a metric of the table; ask for all names before a run, not after it."""
    if name not in METRICS:
        raise UserError(
            f"There is no metric '{name}'; metric_names may hold {', '.join(METRICS)}."
            f"{did_you_mean(name, METRICS)}"
        )
    return METRICS[name]


def score(
    metric_names: Iterable[str],
    targets: Sequence,
    predictions: Sequence,
    *,
    labels: Iterable[int] | None = None,
) -> Scores:
    """Returns one number for each name, under that name; a function of several names runs once."""
    scores: Scores = {}
    values_of: dict[Callable, Scores] = {}
    for name in metric_names:
        metric = find_metric(name)
        if metric.function not in values_of:
            options = {"labels": labels} if metric.takes_labels else {}
            values_of[metric.function] = metric.function(targets, predictions, **options)
        values = values_of[metric.function]
        scores[name] = values[name] if name in values else next(iter(values.values()))
    return scores
