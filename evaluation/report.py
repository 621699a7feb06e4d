"""The report as one self-contained HTML page. Text of documents and models is always escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from evaluation.results import Line, Results
from evaluation.rows import ROW_NAMES
from evaluation.scalability import PROJECTED_REPLICAS
from evaluation.statistics import Interval
from evaluation.table import duration, money, six_rows

MAX_EXAMPLES_PER_KIND = 2


def render(results: Results) -> str:
    """The whole page: styles and charts inside, nothing fetched, no script."""
    return _template().render(
        results=results,
        measured=results.measured,
        verdict=results.verdict,
        config=results.config,
        drawn=drawings(results),
        rows=six_rows(results),
        examples=examples(results.lines),
        row_names=ROW_NAMES,
        stages=dict.fromkeys(stage for figures in results.cells for stage in figures.stages),
        projected_replicas=PROJECTED_REPLICAS,
        # Not the configuration's: a comparison may go on with another number.
        in_flight=" or ".join(map(str, sorted({answer.at_once for answer in results.measured.answers}))),
    )


@cache
def _template() -> Template:
    """Compiled once: that takes longer than to fill it in."""
    environment = Environment(
        loader=PackageLoader("evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, money=money, duration=duration)
    return environment.get_template("report.html.j2")


def drawings(results: Results) -> dict[str, Markup]:
    """Chart to its SVG; only what was measured.

    The only markup that is not the template's: drawn from numbers and cell names by matplotlib, which
    turns text into outlines.
    """
    from evaluation import charts  # matplotlib takes seconds, which asking need not wait for

    drawn = {
        "quality": charts.quality_chart(results.verdict.kinds),
        "latency": charts.latency_chart(results.cells),
    }
    if results.measured.data:
        drawn["data"] = charts.data_chart(results.measured.data)
    if results.measured.scalability is not None:
        drawn["load"] = charts.load_chart(results.measured.scalability.loads)
    if results.measured.trained:
        cost = results.config.cost
        drawn["cost"] = charts.cost_chart(results.costs, cost.queries, cost.currency)
    return {name: Markup(svg) for name, svg in drawn.items()}


def percent(value: Interval | None) -> str:
    """`57 % (47 to 66)`, or a dash where the measure does not apply."""
    return f"{value.mean * 100:.0f} % ({value.low * 100:.0f} to {value.high * 100:.0f})" if value else "–"


def points(difference: Interval) -> str:
    """A difference of shares in percentage points with its sign: `+12 (−3 to +27)`."""
    shown = [round(value * 100) for value in (difference.mean, difference.low, difference.high)]
    mean, low, high = (f"{value:+}".replace("-", "−") if value else "0" for value in shown)
    return f"{mean} ({low} to {high})"


def examples(lines: tuple[Line, ...]) -> list[Line]:
    """The first questions of each kind, those before others on which the cells differ."""
    kinds = dict.fromkeys(line.question.kind for line in lines)
    chosen = []
    for kind in kinds:
        own = [line for line in lines if line.question.kind is kind]
        chosen += sorted(own, key=lambda line: not line.cells_differ)[:MAX_EXAMPLES_PER_KIND]
    return chosen
