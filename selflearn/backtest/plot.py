"""The plot of a backtest: what each configuration still knows, and how far it went from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from selflearn.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES: Final = ("plot.png", "plot.svg")
#: How an update's outcome is marked.
MARKERS: Final = {"promoted": "o", "refused": "x", "inconclusive": "^", "failed": "s", "not_enough": "."}
_INCHES: Final = (9.0, 7.5)


def draw(found: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draws the results of :func:`selflearn.backtest.run` into ``directory``; returns the files.

    Raises :class:`~selflearn.errors.ConfigurationError` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "There is no plot, because matplotlib is not installed. Install it with: pip install 'selflearn[plot]'."
        ) from error
    figure = Figure(figsize=_INCHES, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for configuration in found["configurations"]:
        _line(above, configuration, _retained(configuration))
        _line(below, configuration, _anchored(configuration))
    above.set_ylabel("loss on all that was taught so far\n(nats per token)")
    below.set_ylabel("rise on the base's own answers\n(nats per token)")
    below.set_xlabel("recorded update")
    below.set_xticks(found["updates"])
    above.legend(fontsize="small")
    _explain_markers(below)
    files = [directory / name for name in FILES]
    for file in files:
        figure.savefig(file)
    return files


def _retained(configuration: Mapping[str, Any]) -> list[float | None]:
    """After each update the mean loss of what is served on all that was taught up to then."""
    rows = configuration["rows"][1 : len(configuration["steps"]) + 1]
    return [_mean([loss for loss in row["losses"] if loss is not None]) for row in rows]


def _anchored(configuration: Mapping[str, Any]) -> list[float | None]:
    """What the gate saw of each candidate, served or not."""
    return [step["measured"]["anchor_rise"] for step in configuration["steps"]]


def _line(axes: Axes, configuration: Mapping[str, Any], values: Sequence[float | None]) -> None:
    known = [(step, value) for step, value in zip(configuration["steps"], values, strict=False) if value is not None]
    updates = [step["update"] for step, _ in known]
    style = "-" if configuration["changes"] else "--"
    (line,) = axes.plot(updates, [value for _, value in known], style, label=configuration["name"], linewidth=1.2)
    for step, value in known:
        axes.plot(step["update"], value, MARKERS[step["outcome"]], color=line.get_color())


def _explain_markers(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color="grey", marker=marker, linestyle="", label=outcome.replace("_", " "))
        for outcome, marker in MARKERS.items()
    ]
    axes.legend(handles=marks, fontsize="small", ncols=len(marks), loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
