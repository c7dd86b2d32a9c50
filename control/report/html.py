"""Renders the report as one HTML page without scripts, fonts or other hosts, from ``report.html.jinja``.

The template escapes every value. Plots are lists of shapes, which the template writes as inline SVG.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from control.report import plots, wording
from control.report.documents import Report

_TEMPLATE: Final = "report.html.jinja"


def page(report: Report) -> str:
    """The whole page for a report."""
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            report=report,
            when=_when(report),
            criteria=wording.criteria(report),
            shares=plots.shares(report.phases),
            latencies=plots.latencies(report.phases),
            rollbacks=[(wording.rollback_line(last), plots.clock(last)) for last in report.rollbacks],
        )
    )


def _environment() -> Environment:
    """The template's environment. A name that is missing raises an error instead of leaving a gap in the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": wording.count,
        "data": wording.data_lines,
        "data_known": wording.data_known,
        "error_rate": wording.error_rate,
        "measured": wording.measured,
        "ms": wording.ms,
        "percent": wording.percent,
        "proof": wording.proof,
        "rule": wording.rule,
        "summary": wording.summary,
        "words": wording.words,
    }
    return environment


def _when(report: Report) -> str:
    """When the run began and ended (UTC, to the second), and how long it took."""
    began, ended = report.started_at, report.ended_at
    if began is None:
        return "not started"
    if ended is None:
        return f"{wording.moment(began)} UTC, going on"
    took = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
    return f"{wording.moment(began)} to {wording.moment(ended)} UTC, {wording.span(took.total_seconds())}"
