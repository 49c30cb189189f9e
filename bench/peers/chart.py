"""Draw the medians of lists and adds as an SVG."""

from collections.abc import Iterable, Mapping
from html import escape
from statistics import median
from typing import Any

from bench.peers.programs import OURS, PROGRAMS

STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff; stroke: #d1d9e0 } .head { font-weight: 600 }
  .bar { fill: #8c959f } .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117; stroke: #3d444d }
    .bar { fill: #6e7681 } .ours { fill: #4493f8 }
  }
"""
HEADINGS = {"list": "List of 10 purchases", "add": "Durable add"}
LINE, GAP = 27, 44
LEFT, WIDEST = 250, 310
"""Where the bars begin, and how long the longest is, in pixels."""


def medians(figures: Iterable[Mapping[str, Any]], case: str) -> dict[str, float]:
    """Return the requests a second of each program, the fastest first."""
    rates: dict[str, list[float]] = {}
    for figure in figures:
        if figure["case"] == case and figure["server"] in PROGRAMS:
            rates.setdefault(figure["server"], []).append(figure["rate"])
    found = {name: median(values) for name, values in rates.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def bar(name: str, rate: float, width: float, y: int) -> list[str]:
    """Return a line of the chart: a name, a bar and a figure."""
    kind, title = "ours" if name == OURS else "bar", escape(PROGRAMS[name].title)
    return [
        f'<text x="{LEFT - 10}" y="{y}" text-anchor="end">{title}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y - 14}" width="{width:.1f}"'
        ' height="18" rx="2"/>',
        f'<text x="{LEFT + width + 8:.1f}" y="{y}">{rate:,.0f}</text>',
    ]


def chart(document: Mapping[str, Any]) -> str:
    """Return the SVG for the figures that the check wrote as JSON."""
    parts: list[str] = []
    y = 32
    for case, heading in HEADINGS.items():
        rates = medians(document["figures"], case)
        parts.append(
            f'<text class="head" x="20" y="{y}">{heading}, requests a second</text>'
        )
        for name, rate in rates.items():
            y += LINE
            parts += bar(name, rate, WIDEST * rate / max(rates.values()), y)
        y += GAP
    height = y - GAP + 24
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" role="img" width="640"'
            f' height="{height}" viewBox="0 0 640 {height}">',
            "<title>Requests a second of this server and its peers</title>",
            f"<style>{STYLE}</style>",
            '<rect class="page" x="0.5" y="0.5" width="639"'
            f' height="{height - 1}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )
