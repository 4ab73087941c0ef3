"""Compares runs: a table here, and one page with their curves, settings and scores.

python report.py outputs/a outputs/b                  the table, and report.html
python report.py outputs/* --output comparison.html   another name for the page

The page is one file without anything from elsewhere, to be opened or sent as it is. Runs that still
go on, or were stopped, are read from their newest checkpoint.
"""

from __future__ import annotations

import argparse
import html
import math
from collections.abc import Sequence
from pathlib import Path

from curves_t5 import COLOURS, chart
from errors import UserError, run_program
from metrics import METRICS
from run_records_t5 import (
    RunRecord,
    different_settings,
    read_runs,
    score_names,
    series_of,
)
from whole_files import write_text

# Charts of every page, where the runs have them; those of scores follow behind the losses.
LOSSES = {"loss": "Training loss", "eval_loss": "Held-out loss"}
SPEEDS = {
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "grad_norm": "Norm of the gradient",
}
LOWER_IS_BETTER = ("loss", "bits_per_byte")
DASH = "–"


# ---- the table ----------------------------------------------------------------------------------


def shared_scores(records: Sequence[RunRecord]) -> list[str]:
    """The scores that all runs have, else those that any has."""
    names = [name for name in records[0].scores if all(name in r.scores for r in records)]
    return names or list(dict.fromkeys(name for r in records for name in r.scores))


def comparison_table(records: Sequence[RunRecord]) -> str:
    """A table with one line per score and one column per run."""
    names = shared_scores(records)
    columns = [["", *names]]
    for record in records:
        values = [record.scores.get(name) for name in names]
        columns.append([record.name, *(DASH if v is None else f"{v:.3f}" for v in values)])
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def best_of(name: str, values: Sequence[float | None]) -> float | None:
    """The best of several values of one score; None where there is nothing to choose."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < 2 or len(set(known)) == 1:
        return None
    metric = METRICS.get(name.rpartition("_")[2])
    is_less = name.endswith(LOWER_IS_BETTER) or (metric and not metric.greater_is_better)
    return min(known) if is_less else max(known)


# ---- the page -----------------------------------------------------------------------------------


def page(records: Sequence[RunRecord]) -> str:
    """The whole page, as one HTML document."""
    colours = {r.name: COLOURS[number % len(COLOURS)] for number, r in enumerate(records)}
    charts = _charts(records, colours)
    sections = [
        _section("Runs", _cards(records, colours)),
        _section("Scores", _scores(records)),
        _section("Curves", f'<div class="charts">{charts}</div>' if charts else ""),
        _section("Settings that differ", _settings(records)),
    ]
    title = " · ".join(record.name for record in records)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{html.escape(title)}</h1>\n{''.join(sections)}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n" if content else ""


def _cards(records: Sequence[RunRecord], colours: dict[str, str]) -> str:
    cards = []
    for record in records:
        state = "finished" if record.is_finished else "not finished"
        held_out = record.scores.get("eval_loss")
        facts = [f"{record.last_step:,} steps, {state}"]
        facts += [f"held-out loss {held_out:.3f}"] if held_out is not None else []
        cards.append(
            f'<div class="run" style="border-color:{colours[record.name]}">'
            f"<b>{html.escape(record.name)}</b><span>{html.escape(', '.join(facts))}</span>"
            f"<code>{html.escape(str(record.folder))}</code></div>"
        )
    return f'<div class="runs">{"".join(cards)}</div>'


def _charts(records: Sequence[RunRecord], colours: dict[str, str]) -> str:
    scores = dict.fromkeys(name for record in records for name in score_names(record.log))
    titles = LOSSES | {name: _as_title(name) for name in scores} | SPEEDS
    return "".join(
        chart(title, {r.name: series_of(r.log, name) for r in records}, colours=colours)
        for name, title in titles.items()
    )


def _as_title(name: str) -> str:
    return f"Held-out {name.removeprefix('eval_').replace('_', ' ')}"


def _scores(records: Sequence[RunRecord]) -> str:
    names = list(dict.fromkeys(name for record in records for name in record.scores))
    rows = []
    for name in names:
        values = [record.scores.get(name) for record in records]
        best = best_of(name, values)
        rows.append(
            [name, *(_cell(None if v is None else f"{v:.3f}", v is not None and v == best)
                     for v in values)]
        )  # fmt: skip
    return _table(["", *(r.name for r in records)], rows) if rows else ""


def _settings(records: Sequence[RunRecord]) -> str:
    rows = [
        [name, *(_cell(_shown(value)) for value in values)]
        for name, values in different_settings(records).items()
    ]
    if len(records) == 1:
        return ""
    return _table(["", *(r.name for r in records)], rows) if rows else "<p>None.</p>"


def _shown(value: object) -> str:
    return "None" if value is None else str(value)


def _cell(text: str | None, is_best: bool = False) -> str:
    kind = ' class="best"' if is_best else ""
    return f"<td{kind}>{DASH if text is None else html.escape(text)}</td>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of rows that begin with a name and go on with cells."""
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(f"<tr><th>{html.escape(row[0])}</th>{''.join(row[1:])}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


STYLE = """
:root { color-scheme: light dark; --ink: #1c2230; --soft: #657084; --line: #e3e7ee;
  --ground: #f6f7f9; --card: #fff; --best: #e6f4ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b5; --line: #2c3340;
  --ground: #12151b; --card: #1a1f28; --best: #173527; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 24px; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; }
.runs { display: flex; flex-wrap: wrap; gap: 12px; }
.run { background: var(--card); border: 1px solid var(--line); border-left: 5px solid;
  border-radius: 8px; padding: 10px 16px; display: flex; flex-direction: column; min-width: 220px; }
.run span { color: var(--soft); } .run code { color: var(--soft); font-size: 12px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 16px; }
.chart { position: relative; margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 10px 6px; }
figcaption { font-weight: 600; padding: 0 8px 6px; display: flex; flex-wrap: wrap;
  justify-content: space-between; column-gap: 16px; }
.legend { font-weight: 400; font-size: 13px; color: var(--soft); display: flex; flex-wrap: wrap;
  column-gap: 14px; }
.legend i, .values i { display: inline-block; width: 9px; height: 9px; border-radius: 50%;
  margin-right: 7px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; visibility: hidden; }
.values { position: absolute; top: 42px; pointer-events: none; display: none; z-index: 1;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 6px 10px;
  font-size: 13px; box-shadow: 0 4px 16px rgb(0 0 0 / .14); white-space: nowrap; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 16px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
.best { background: var(--best); font-weight: 650; }
"""

# Shows the values under the mouse; the page is whole without it.
SCRIPT = """
for (const figure of document.querySelectorAll('.chart')) {
  const data = JSON.parse(figure.querySelector('script').textContent);
  const svg = figure.querySelector('svg'), box = figure.querySelector('.values');
  const cursor = figure.querySelector('.cursor');
  const [first, last, left, right, width] = data.frame;
  svg.addEventListener('mousemove', event => {
    const area = svg.getBoundingClientRect(), scale = width / area.width;
    const x = Math.min(Math.max((event.clientX - area.left) * scale, left), right);
    const step = first + (x - left) / (right - left) * (last - first);
    const nearest = points => points.reduce((a, b) =>
      Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    box.replaceChildren(...data.curves.map(curve => {
      const [at, value] = nearest(curve.points), line = document.createElement('div');
      const dot = document.createElement('i');
      dot.style.background = curve.colour;
      const shown = value === null ? 'not finite' : Number(value.toPrecision(5));
      line.append(dot, `${curve.name}  ${shown}  (step ${at.toLocaleString('en')})`);
      return line;
    }));
    cursor.setAttribute('x1', x); cursor.setAttribute('x2', x);
    cursor.style.visibility = 'visible'; box.style.display = 'block';
    const place = x / scale, turns = place > area.width / 2;
    box.style.left = turns ? 'auto' : `${place + 24}px`;
    box.style.right = turns ? `${area.width - place + 24}px` : 'auto';
  });
  svg.addEventListener('mouseleave', () => {
    cursor.style.visibility = 'hidden'; box.style.display = 'none';
  });
}
"""


# ---- the program --------------------------------------------------------------------------------


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors."""

    def error(self, message: str):
        raise UserError(f"{message}. Type: python report.py OUTPUT_DIR [OUTPUT_DIR ...]")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="report.py", description="Compares runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE", help="where the page goes; report.html"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of some runs and writes their page."""
    arguments = parse_arguments(argv)
    records = read_runs(arguments.runs)
    print(comparison_table(records))
    try:
        write_text(arguments.output, page(records))
    except OSError as error:
        raise UserError(
            f"--output {arguments.output} cannot be written ({error.strerror}). Give another."
        ) from error
    print(f"\nCurves, settings and scores: {Path(arguments.output)}")


if __name__ == "__main__":
    run_program(main)
