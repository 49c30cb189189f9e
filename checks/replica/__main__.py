"""Lose the database with all files beside it, and restore it from the replica.

    python -m checks.replica [--kills 4]

Clients write to a server beside which Litestream runs, set up as docs/litestream.yml
says. Both get SIGKILL, under load or after a pause; the database is deleted, or moved
away, and restored by the commands of docs/backups.md. What is there must be all that
was written up to some change, and nothing that was written longer before the kill than
is promised may be missing; after a pause, nothing at all. Both go on from there. Then
an older moment is restored. Last, it is measured what Litestream costs those who add.
Where Litestream is not installed all of this is left out.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from checks.operators.tools import BreachError
from checks.replica.beside import EXPECTED, Beside, Run, measure
from checks.replica.kills import Figures, kill
from checks.replica.pair import PROGRAM, Pair, program
from checks.support.report import print_breaches, print_table

LONG = 10
"""From how many kills on the rest is measured for long too."""


def report(kills: Figures, beside: Beside) -> None:
    """Print the figures."""
    writes = [loss.writes for loss in kills.losses]
    rows: list[tuple[str, object]] = [
        ("kills under load, after a pause", f"{len(writes)}, {kills.quiet}"),
        ("writes acknowledged", kills.acknowledged),
        ("lost by a kill under load, median and most", two_of(writes)),
        ("age of the oldest of them, median and most, s", two_of(kills.ages)),
        ("lost by a kill after a pause", kills.lost_in_quiet),
        ("a restore, median and longest, s", two_of(kills.restores)),
        ("whole copy after a start, median and longest, s", two_of(kills.copied)),
        *report_cost(beside),
    ]
    print_table(("Litestream beside the server", "figure"), rows)


def report_cost(beside: Beside) -> list[tuple[str, object]]:
    """Return the rows on what Litestream costs."""
    runs, answers = beside.runs(), beside.statuses()
    failed = sum(count for one, count in answers.items() if one not in EXPECTED)
    return [
        ("adds a second without it, with it", both(beside, rate_of, 1)),
        ("share of the adds", f"{beside.share():.2f}"),
        ("p99 of an add without it, with it, ms", both(beside, p99_of, 1000)),
        ("slowest write beside it, s", f"{max(run.slowest for run in runs):.2f}"),
        ("answers beside it", answers.total()),
        ("of them 503 or another failure", failed),
        ("longest WAL beside it, MiB", f"{max(run.wal for run in runs):.0f}"),
    ]


def rate_of(run: Run) -> float:
    """Return the writes a second of a run."""
    return run.rate


def p99_of(run: Run) -> float:
    """Return the 99th percentile of the answers of a run, in seconds."""
    return run.p99


def both(beside: Beside, of: Callable[[Run], float], scale: float) -> str:
    """Return the medians of a figure without Litestream and with it."""
    sides = (beside.without, beside.beside)
    return ", ".join(f"{median(map(of, runs)) * scale:.0f}" for runs in sides)


def two_of(values: Sequence[float]) -> str:
    """Return the median and the most of some figures."""
    digits = 0 if all(isinstance(one, int) for one in values) else 2
    return f"{median(values):.{digits}f}, {max(values):.{digits}f}"


async def run(kills: int) -> tuple[Figures, Beside]:
    """Kill and measure. BreachError."""
    with tempfile.TemporaryDirectory() as folder:
        figures = await kill(Pair(Path(folder)), kills)
    long = kills >= LONG
    return figures, await measure(*((5, 10.0, 60.0) if long else (2, 2.5, 5.0)))


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=4)
    options = parser.parse_args()
    if program() is None:
        print(f"skipped: {PROGRAM} is not installed")
        return 0
    try:
        figures, beside = asyncio.run(run(options.kills))
    except BreachError as exc:
        print(f"breach: {exc}")
        return 1
    report(figures, beside)
    return print_breaches(figures.breaches + beside.breaches())


if __name__ == "__main__":
    sys.exit(main())
