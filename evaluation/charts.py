"""Small charts as inline SVG that takes its text colour from the page around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evaluation.cost import CellCost
from evaluation.data_dependency import Point, fraction
from evaluation.figures import CellFigures
from evaluation.scalability import Load
from evaluation.verdict import Ruling

# Stands for the page's own text colour, which differs in light and dark; no chart colour is this one.
INK = "#010203"
# Okabe & Ito's colours that keep their distance from white and from near-black, and from each other for
# the colour-blind. Shapes differ too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
WIDTH_IN = 7.0


def quality_chart(rulings: Sequence[Ruling]) -> str:
    """Share of right answers of each cell for each kind, with its interval."""
    cells = list(rulings[0].cells)
    figure, axes = _figure(0.8 + 0.22 * len(rulings) * (len(cells) + 1))
    for index, cell in enumerate(cells):
        means = [ruling.cells[cell] for ruling in rulings]
        axes.errorbar(
            [value.mean for value in means],
            [row * (len(cells) + 1) + index for row in range(len(rulings))],
            xerr=[[v.mean - v.low for v in means], [v.high - v.mean for v in means]],
            fmt=MARKERS[index % len(MARKERS)],
            color=_colour(index),
            capsize=3,
            label=cell,
        )
    middle = (len(cells) - 1) / 2
    axes.set_yticks(
        [row * (len(cells) + 1) + middle for row in range(len(rulings))],
        [f"{ruling.about} ({ruling.num_questions})" for ruling in rulings],
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of right answers")
    axes.invert_yaxis()
    return _svg(_with_legend(figure, axes), "quality")


def latency_chart(cells: Sequence[CellFigures]) -> str:
    """Median time to the first token and to the whole answer, with the 99th percentile."""
    figure, axes = _figure(0.8 + 0.4 * len(cells))
    rows = range(len(cells))
    axes.barh(
        rows, [c.total.p50_ms for c in cells], height=0.55, color=COLOURS[5], label="whole answer, median"
    )
    axes.barh(
        rows, [c.ttft.p50_ms for c in cells], height=0.25, color=COLOURS[0], label="first token, median"
    )
    axes.plot(
        [c.total.p99_ms for c in cells], rows, "|", color=COLOURS[1], ms=14, mew=2, label="whole answer, p99"
    )
    axes.set_yticks(rows, [c.cell for c in cells])
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds")
    axes.invert_yaxis()
    return _svg(_with_legend(figure, axes), "latency")


def data_chart(points: Sequence[Point]) -> str:
    """Right answers against the part of the data, one line for each cell."""
    figure, axes = _figure(2.8)
    axes.grid(axis="y", color=INK, alpha=0.15)
    for index, cell in enumerate(dict.fromkeys(point.cell for point in points)):
        own = sorted((point.share, point.right) for point in points if point.cell == cell)
        if len(own) == 1:  # it uses no data: the same at every share
            axes.axhline(own[0][1], color=_colour(index), ls=":", label=cell)
        else:
            axes.plot(*zip(*own, strict=True), **_line(index), label=cell)
    shares = sorted({point.share for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shares, list(map(fraction, shares)))
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("part of the training rows and of the documents")
    axes.set_ylabel("share of right answers", color=INK)
    return _svg(_with_legend(figure, axes), "data")


def load_chart(loads: Sequence[Load]) -> str:
    """Answers per second against requests in flight, one line for each cell."""
    figure, axes = _figure(2.8)
    axes.grid(axis="y", color=INK, alpha=0.15)
    for index, cell in enumerate(dict.fromkeys(load.cell for load in loads)):
        own = sorted((load.at_once, load.answers_per_s) for load in loads if load.cell == cell)
        axes.plot(*zip(*own, strict=True), **_line(index), label=cell)
    levels = sorted({load.at_once for load in loads})
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests in flight")
    axes.set_ylabel("answers per second", color=INK)
    return _svg(_with_legend(figure, axes), "load")


def cost_chart(costs: Sequence[CellCost], num_queries: int, currency: str) -> str:
    """Money spent against queries answered: what was spent before them, and what each of them costs."""
    figure, axes = _figure(2.8)
    axes.grid(axis="y", color=INK, alpha=0.15)
    ends = (0, num_queries)
    for index, cost in enumerate(costs):
        axes.plot(ends, [cost.money(end) for end in ends], **_line(index), label=cost.cell)
    axes.set_xlim(0, num_queries)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("queries")
    axes.set_ylabel(currency, color=INK, parse_math=False)  # "$" is no formula
    return _svg(_with_legend(figure, axes), "cost")


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, labelcolor=INK)
    return figure


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _line(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "marker": MARKERS[index % len(MARKERS)], "lw": 1.6}


def _figure(height_in: float) -> tuple[Figure, Axes]:
    # Not pyplot, which keeps every figure in a global list.
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.xaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
    axes.grid(axis="x", color=INK, alpha=0.15)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The drawing alone: no prolog, no date, and no id that another chart of the page could have too."""
    out = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    # Glyph ids are font and code point, so two charts share them; their outlines are the same.
    return re.sub(r'(id="|href="#)', rf"\g<1>{name}-", drawing).replace("url(#", f"url(#{name}-")
