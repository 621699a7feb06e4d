"""The report as one self-contained HTML page. Text of documents and models is always escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation.charts import latency_chart, quality_chart
from evaluation.results import NOT_MEASURED, Line, Results
from evaluation.statistics import Interval

MAX_EXAMPLES_PER_KIND = 2


def render(results: Results) -> str:
    """The whole page: styles and charts inside, nothing fetched, no script."""
    environment = Environment(
        loader=PackageLoader("evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("report.html.j2").render(
        results=results,
        verdict=results.verdict,
        config=results.config,
        # The only markup that is not the template's: drawn from numbers and cell names by matplotlib,
        # which turns text into outlines.
        quality=Markup(quality_chart(results.verdict.kinds)),
        latency=Markup(latency_chart(results.cells)),
        examples=examples(results.lines),
        not_measured=NOT_MEASURED,
        row_names=ROW_NAMES,
    )


ROW_NAMES = {
    "customization": "right answers",
    "computational_cost": "tokens for each question",
    "inference_time": "time for each answer",
}


def percent(value: Interval | None) -> str:
    """`57 % (47 to 66)`, or a dash where the measure does not apply."""
    return f"{value.mean * 100:.0f} % ({value.low * 100:.0f} to {value.high * 100:.0f})" if value else "–"


def examples(lines: tuple[Line, ...]) -> list[Line]:
    """The first questions of each kind, those before others on which the cells differ."""
    kinds = dict.fromkeys(line.question.kind for line in lines)
    chosen = []
    for kind in kinds:
        own = [line for line in lines if line.question.kind is kind]
        chosen += sorted(own, key=lambda line: not line.cells_differ)[:MAX_EXAMPLES_PER_KIND]
    return chosen
