"""Pictures of a run, and of a sweep's runs side by side, as SVG and PNG. The one file that names matplotlib here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Events as `metrics.jsonl` holds them.
Events = Sequence[Mapping[str, Any]]
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Plot:
    """One picture: the figure of every event of a kind over the step."""

    file: str
    title: str
    kind: str
    value: str
    unit: str = ""


LOSS = Plot("loss", "Training loss", "step", "loss", "nats per target")
VALIDATION_LOSS = Plot("validation_loss", "Validation loss", "epoch", "validation_loss", "nats per target")
PLOTS = (
    LOSS,
    VALIDATION_LOSS,
    Plot("learning_rate", "Learning rate", "step", "learning_rate"),
    Plot("grad_norm", "Gradient norm", "step", "grad_norm"),
    Plot("throughput", "Throughput", "step", "tokens_per_s", "tokens/s"),
)


def points(events: Events, plot: Plot) -> Points:
    """`(step, value)` of all events of a plot that have a value, by step; of a step that was run twice the later one.

    >>> points([{"kind": "step", "step": 2, "loss": 1.0}, {"kind": "step", "step": 2, "loss": 0.5}], LOSS)
    [(2, 0.5)]
    """
    drawn = (event for event in events if event["kind"] == plot.kind and event[plot.value] is not None)
    return sorted({int(event["step"]): float(event[plot.value]) for event in drawn}.items())


def plot_run(events: Events, folder: Path) -> list[str]:
    """Write each plot of a run that has points; returns the names of the SVG files."""
    written = []
    for plot in PLOTS:
        curve = points(events, plot)
        if curve:
            plot_curves({"": curve}, plot, folder)
            written.append(f"{plot.file}.svg")
    return written


def plot_curves(curves: Mapping[str, Points], plot: Plot, folder: Path) -> None:
    """Curves of one run or several in one picture, as SVG and PNG, told apart by name where they are several."""
    from matplotlib.figure import Figure

    # Not pyplot, which keeps figures for the whole process and asks for a display.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        steps, values = zip(*curve, strict=True)
        marker = "o" if len(curve) < 40 else None
        axes.plot(steps, values, label=name, linewidth=1.8, marker=marker, markersize=3)
    axes.set_title(plot.title, loc="left")
    axes.set_xlabel("step")
    axes.set_ylabel(plot.unit)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"{plot.file}.{suffix}", dpi=120)
