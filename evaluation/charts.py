"""Two small charts as inline SVG that takes its text colour from the page around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.results import CellFigures
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
            color=COLOURS[index % len(COLOURS)],
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, labelcolor=INK)
    return _svg(figure, "quality")


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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, labelcolor=INK)
    return _svg(figure, "latency")


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
