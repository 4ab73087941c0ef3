"""The scores of an evaluation as a small table: one set with the best so far, or a row per set.

held out   step 1,200/2,400     loss  token_accuracy  bits_per_byte
           now                 3.607          33.371          2.829   <- best
           best, step 600      3.823          32.701          2.998

held out   step 250/500     loss  matthews  accuracy     mean
           cola            0.200    71.300
           sst2            0.150              76.900
           all             0.180                       74.100
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from metrics import METRICS
from terminal_t5 import paint

COMMON = ("loss", "token_accuracy", "bits_per_byte")  # the first columns
ENDINGS = (*COMMON, "mean", "average", *METRICS)
HIDDEN = ("epoch", "_runtime", "_per_second", "_steps_per_second")
NOW, ALL = "now", "all"
HEAD = "held out"
MARK = "<- best"
INDENT = " " * 11

Scores = Mapping[str, float]


def rows_of(scores: Scores, *, prefix: str = "eval_") -> dict[str, dict[str, float]]:
    """{set: {metric: value}}; '' is what is said of all sets together, the last row.

    eval_loss, eval_cola_loss, eval_cola_matthews -> {'': {loss}, 'cola': {loss, matthews}}
    """
    rows: dict[str, dict[str, float]] = {"": {}}
    for name, value in scores.items():
        if not name.startswith(prefix) or name.endswith(HIDDEN):
            continue
        rest = name.removeprefix(prefix)
        endings = [end for end in ENDINGS if rest.endswith(f"_{end}") and rest not in ENDINGS]
        metric = max(endings, key=len, default=rest)
        rows.setdefault(rest.removesuffix(metric).rstrip("_"), {})[metric] = value
    rows[""] = rows.pop("")  # below the others
    return {name: row for name, row in rows.items() if row}


def evaluation_table(
    scores: Scores,
    *,
    where: str,
    head: str = HEAD,
    prefix: str = "eval_",
    before: tuple[int, Scores] | None = None,
    now: str = NOW,
    is_best: bool = False,
) -> str:
    """The table above. `before` is (step, scores) of the best evaluation until now."""
    rows = rows_of(scores, prefix=prefix)
    named = {
        (ALL if len(rows) > 1 else now) if name == "" else name: row for name, row in rows.items()
    }
    if before is not None and NOW in named:
        named[f"best, step {before[0]:,}"] = rows_of(before[1], prefix=prefix).get("", {})
    columns = list(dict.fromkeys(metric for row in named.values() for metric in row))
    columns.sort(key=lambda name: COMMON.index(name) if name in COMMON else len(COMMON))
    first = max(len(where), *(len(name) for name in named))
    cells = {
        name: [f"{row[metric]:.3f}" if metric in row else "" for metric in columns]
        for name, row in named.items()
    }
    widths = [max(7, *map(len, column)) for column in zip(columns, *cells.values(), strict=True)]
    lines = [f"{head:<10} {where:<{first}}{_cells(columns, widths)}"]
    for name, texts in cells.items():
        line = f"{INDENT}{name:<{first}}{_cells(texts, widths)}"
        if name in (NOW, ALL) and is_best:
            line = paint(f"{line}  {MARK}", "green")
        lines.append(line.rstrip())
    return "\n".join([paint(lines[0], "bold"), *lines[1:]])


def _cells(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"  {text:>{width}}" for text, width in zip(texts, widths, strict=True))


class TableReader:
    """Reads the values of one metric back from the lines of such tables in a log."""

    def __init__(self, name: str):
        self.name = name
        self.ends: dict[str, int] = {}  # metric -> where its column ends

    def read(self, line: str) -> float | None:
        """The metric's value if this line of a table has it; None otherwise."""
        line = re.sub(r"\x1b\[[\d;]*m", "", line.rstrip("\n"))
        if line.startswith(HEAD):
            during = re.match(rf"{HEAD}\s+step \S+", line)
            words = re.finditer(r"\S+", line)
            self.ends = {w[0]: w.end() for w in words if during and w.start() > during.end()}
            return None
        if not line.startswith(INDENT):
            self.ends = {}
            return None
        set_name = line.split()[0]
        stem = "eval_" if set_name in (NOW, ALL) else f"eval_{set_name}_"
        metric = self.name.removeprefix(stem) if self.name.startswith(stem) else None
        if len(line) < self.ends.get(metric, len(line) + 1):
            return None
        found = re.search(r"-?(?:[\d.]+|nan|inf)$", line[: self.ends[metric]])
        return float(found[0]) if found else None
