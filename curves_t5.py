"""Curves of a run's log: a picture for its card, and charts for a page that compares runs."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from run_records_t5 import Point, score_names, series_of

MOST_SCORES = 6  # curves of scores in one picture
MOST_POINTS = 500  # of a curve in a chart: more than it has pixels would only be heavy
# Okabe and Ito's colours, which colour-blind readers tell apart, in an order for few curves.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")

# ---- a picture, by matplotlib -------------------------------------------------------------------


def draw_curves(log: Sequence[dict], *, path: Path) -> bool:
    """Loss, scores of held-out data and learning rate by step; False if nothing was logged.

    The figure is made without pyplot, which would change the notebook it is called from.
    """
    panels = [
        ("loss, nats per target token", {"loss": "training", "eval_loss": "held out"}),
        ("score, 0-100", {name: name.removeprefix("eval_") for name in _shown_scores(log)}),
        ("learning rate", {"learning_rate": ""}),
    ]
    found = {name: series_of(log, name) for _, names in panels for name in names}
    panels = [panel for panel in panels if any(found[name] for name in panel[1])]
    if not found["loss"] and not found["eval_loss"]:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [1 if label == "learning rate" else 2.2 for label, _ in panels]
    figure = Figure(figsize=(7.5, 1.1 + 1.25 * sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, (label, names) in zip(axes, panels, strict=True):
        for number, (name, legend) in enumerate(names.items()):
            if not found[name]:
                continue
            colour = COLOURS[number] if legend else "#7f7f7f"
            marker = "o" if name.startswith("eval_") else ""
            axis.plot(
                *zip(*found[name], strict=True), color=colour, marker=marker, ms=3.5, label=legend
            )
        axis.set_ylabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if any(names.values()):
            axis.legend(fontsize=8, frameon=False)
    _cut_beginning(axes[0], found["loss"])
    axes[-1].set_xlabel("step", fontsize=9)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
    return True


def _shown_scores(log: Sequence[dict]) -> list[str]:
    """A few scores: what is said of all tasks together first."""
    names = score_names(log)
    together = [name for name in names if name.endswith(("_mean", "_average"))]
    others = [name for name in names if name not in together and "bits_per_byte" not in name]
    return [*together, *others][:MOST_SCORES]


def _cut_beginning(axis, losses: Sequence[Point]) -> None:
    """A first loss far above the rest would press everything else onto the ground."""
    top = upper_limit([value for _, value in losses])
    if top is not None and top < axis.get_ylim()[1]:
        axis.set_ylim(top=top)


def upper_limit(values: Sequence[float]) -> float | None:
    """The top of a loss's axis: 30 % of its range above 9 in 10 of its values, or the largest."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return None
    nine_in_ten = finite[min(len(finite) - 1, int(0.9 * len(finite)))]
    return min(finite[-1], nine_in_ten + 0.3 * (nine_in_ten - finite[0]) + 1e-9)


# ---- charts, as SVG -----------------------------------------------------------------------------

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 34


def chart(title: str, curves: Mapping[str, Sequence[Point]], *, colours: Mapping[str, str]) -> str:
    """An HTML figure with the curves of several runs over each other; '' where there are none.

    The points stand beside the drawing as JSON, for the page's script that shows values.
    """
    curves = {name: thinned(points) for name, points in curves.items() if points}
    if not curves:
        return ""
    values = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    steps = [step for points in curves.values() for step, _ in points]
    if not values:
        return ""
    low, high = min(values), max(values)
    if "loss" in title.lower():
        high = max(upper_limit([v for _, v in points]) or high for points in curves.values())
    x_ticks, y_ticks = ticks(min(0, min(steps)), max(steps)), ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    frame = Frame(x_ticks[0], max(steps), low, high + 0.03 * (high - low))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    parts += [_horizontal(frame, tick) for tick in y_ticks]
    parts += [_vertical(frame, tick) for tick in x_ticks if tick <= frame.right]
    for name, points in curves.items():
        places = " ".join(f"{frame.x(s):.1f},{frame.y(v):.1f}" for s, v in points if v == v)
        tooltip = f"<title>{html.escape(name)}</title>"
        parts.append(
            f'<polyline class="curve" points="{places}" stroke="{colours[name]}">{tooltip}'
            "</polyline>"
        )
        if len(points) <= 40:
            parts += [
                f'<circle class="dot" cx="{frame.x(s):.1f}" cy="{frame.y(v):.1f}" r="2.6" '
                f'fill="{colours[name]}"/>'
                for s, v in points
                if v == v
            ]
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>')
    data = {
        "frame": [frame.left, frame.right, LEFT, WIDTH - RIGHT, WIDTH],
        "curves": [
            {
                "name": name,
                "colour": colours[name],
                "points": [(s, v if math.isfinite(v) else None) for s, v in points],
            }
            for name, points in curves.items()
        ],
    }
    script = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    legend = "".join(
        f'<span><i style="background:{colours[name]}"></i>{html.escape(name)}</span>'
        for name in curves
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}<div class="legend">{legend}</div>'
        f"</figcaption>{''.join(parts)}"
        f'<div class="values"></div><script type="application/json">{script}</script></figure>'
    )


class Frame:
    """Where values stand in a chart; what lies outside is drawn on its edge."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.right = left, max(right, left + 1)
        self.low, self.high = low, high if high > low else low + 1

    def x(self, step: float) -> float:
        share = (step - self.left) / (self.right - self.left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers from just below `low` to at most `high`: 0.3, 4.1 -> 0, 1, 2, 3, 4."""
    span = (high - low) or abs(high) or 1.0
    rough = span / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS of them, evenly, the last one kept."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]


def _horizontal(frame: Frame, value: float) -> str:
    y = frame.y(value)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    )


def _vertical(frame: Frame, step: float) -> str:
    x = frame.x(step)
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(step)}</text>'
    )


def short(value: float) -> str:
    """12000 -> 12k, 0.00025 -> 2.5e-4, 3.5 -> 3.5"""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"
