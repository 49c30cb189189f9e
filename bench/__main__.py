"""Measure the server beside its peers, side by side in one run.

    python -m bench [--short] [--rounds N] [--seconds N]
    python -m bench --only list,add --against limit,head    # a quick comparison
    python -m bench --only list,add --against head --commit REV

The full form takes about a quarter of an hour and writes docs/bench.json and
docs/bench.svg, --short takes about a minute. The server runs on one core, wrk on
another. All servers are up at the same time and take turns, each round in another
order. Figures are medians of the rounds, ratios medians of each round's ratio. The
limit is aiohttp with uvloop, answering constant bytes; head is the last
commit, or the one that --commit names.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.engines import postgresql
from bench.feed import listeners
from bench.growth import growth, start_up
from bench.imports import imports
from bench.peers.loads import LOADS, OWN_LOADS
from bench.peers.programs import (
    INSTALLED,
    OURS,
    PROGRAMS,
    PROJECT,
    MissingError,
    install_wrk,
)
from bench.peers.targets import Place
from bench.report import document, judge, write
from bench.sections import ROUNDS, Run, memory, mixed, own_loads, peers, unpinned

SECTIONS: dict[str, Callable[[Run], None]] = {
    "unpinned": unpinned,
    "postgresql": postgresql,
    "mixed": mixed,
    "memory": memory,
    "growth": growth,
    "start": start_up,
    "import": imports,
    "listeners": listeners,
}


def options() -> argparse.Namespace:
    """Return the settings of the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = [*LOADS, *OWN_LOADS, *SECTIONS]
    programs = [name for name in PROGRAMS if name != OURS]
    others = [name for name in programs if PROGRAMS[name].usual]
    for flag, kind, meaning in (
        ("--rounds", int, f"how often each is measured ({ROUNDS}; with --short 3)"),
        ("--seconds", int, "how long each time (4; with --short 2)"),
        ("--only", str, f"some of {','.join(sections)}"),
        ("--against", str, f"some of {','.join(programs)}"),
        ("--json", Path, "file for the figures (in the full form docs/bench.json)"),
        ("--chart", Path, "file for a chart (in the full form docs/bench.svg)"),
    ):
        parser.add_argument(flag, type=kind, help=meaning)
    parser.add_argument("--commit", help="the commit of `--against head` (HEAD)")
    parser.add_argument("--short", action="store_true", help="list and add, briefly")
    chosen = parser.parse_args()
    if chosen.commit:
        os.environ["BENCH_COMMIT"] = chosen.commit
    if not (chosen.short or chosen.only or chosen.against):
        chosen.json = chosen.json or PROJECT / "docs" / "bench.json"
        chosen.chart = chosen.chart or PROJECT / "docs" / "bench.svg"
    usual = [*LOADS] if chosen.short else sections
    chosen.only = chosen.only.split(",") if chosen.only else usual
    chosen.against = chosen.against.split(",") if chosen.against else others
    if wrong := {*chosen.only} - {*sections} | {*chosen.against} - {*programs}:
        parser.error(f"no such thing: {', '.join(wrong)}")
    chosen.rounds = chosen.rounds or (3 if chosen.short else ROUNDS)
    chosen.seconds = chosen.seconds or (2 if chosen.short else 4)
    return chosen


def measure_all(run: Run, only: Sequence[str], against: Sequence[str]) -> None:
    """Measure what was asked for."""
    if cases := [case for case in LOADS if case in only]:
        peers(run, against, cases)
    if {*OWN_LOADS} & {*only}:
        own_loads(run, against)
    for name, section in SECTIONS.items():
        if name in only:
            section(run)


def bench(chosen: argparse.Namespace, rounds: int) -> bool:
    """Measure, write and tell; return whether the goals were met, or nearly."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[1]})  # the server's core is for the server alone
    with tempfile.TemporaryDirectory(dir=INSTALLED) as folder:  # on the disk
        core, other = map(str, cores[:2])
        run = Run(
            rounds,
            chosen.seconds,
            other,
            pinned=Place(Path(folder), core),
            unpinned=Place(Path(folder), f"{core},{other}"),
        )
        measure_all(run, chosen.only, chosen.against)
    os.sched_setaffinity(0, cores)
    write(document(run), chosen.json, chosen.chart)
    print(f"\nLoad average before: {run.load_average:.1f}; more than 0.5 disturbs.\n")
    return judge(run, chosen.short)


def is_installed(name: str) -> bool:
    """Install a peer; say where it is left out, and why."""
    try:
        PROGRAMS[name].install()
    except MissingError as exc:
        print(f"{PROGRAMS[name].title}: left out, this is missing: {exc}\n")
        return False
    return True


def main() -> int:
    """Run the check; 1 when a goal is missed, with --short when it is missed by far.

    What else goes on in the machine looks the same for a moment: what a short run
    missed by far is measured once more, for longer.
    """
    chosen = options()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench: two cores are needed, one of them for the load")
    install_wrk()
    PROGRAMS[OURS].install()
    chosen.against = [name for name in chosen.against if is_installed(name)]
    INSTALLED.mkdir(exist_ok=True)
    held = bench(chosen, chosen.rounds)
    if not held and chosen.short:
        print("\nOnce more, for longer.\n")
        held = bench(chosen, ROUNDS)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
