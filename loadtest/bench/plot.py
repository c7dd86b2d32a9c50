"""Line plots as SVG, by matplotlib: medians, with their range as error bars. The same points give the same file.

matplotlib comes with ``pip install 'phasegate[dev]'``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from loadtest.bench.curve import Point, short

SIZE_INCHES: Final = (6.4, 3.0)  # the width of a page in the docs
_COLOUR: Final = "#0072b2"  # Okabe and Ito's blue, which colour-blind readers can distinguish
# Text is kept as text; random ids and the date are left out, because they would change the file on every run.
_STYLE: Final[dict[Any, Any]] = {  # rc_context's stub has a literal type for every key
    "svg.fonttype": "none",
    "svg.hashsalt": "phasegate",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_METADATA: Final = {"Date": None, "Creator": None}


def figure(title: str, x_label: str, y_label: str, points: Sequence[Point], *, log_x: bool = False) -> Figure:
    """The plot: from 0 upwards, with a mark at each point's x. ``log_x`` needs every x above 0."""
    with rc_context(_STYLE):
        plot = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = plot.add_subplot()
        xs, ys = [point.x for point in points], [point.y for point in points]
        spread = [[point.y - point.low for point in points], [point.high - point.y for point in points]]
        axes.errorbar(xs, ys, yerr=spread, color=_COLOUR, marker="o", markersize=4, capsize=3, elinewidth=1)
        if log_x:
            axes.set_xscale("log")
        axes.set_xticks(xs, [short(x) for x in xs])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#dddddd")
        axes.set_axisbelow(True)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return plot


def svg(plot: Figure) -> str:
    """The whole file."""
    out = io.StringIO()
    with rc_context(_STYLE):
        plot.savefig(out, format="svg", metadata=_METADATA)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
