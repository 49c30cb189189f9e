"""Measure the server beside its peers, side by side in one run.

    python -m bench [--short] [--rounds N] [--seconds N]
    python -m bench --only list,add --against limit,head    # a quick comparison
    python -m bench --only list,add --against head --commit REV

The full form takes about twenty minutes and writes docs/bench.json and docs/bench.svg,
--short (lists and adds alone, beside all peers) takes about a minute. The server runs
on one core, wrk on another. All servers are up at the same time and take turns, each
round in another order. Figures are medians of the rounds, ratios medians of each
round's ratio; a processor's time and system calls a request (where perf can count
them, and not with --short) are steadier. The limit is aiohttp with uvloop, answering
constant bytes; head is the last commit, or the one that --commit names.

Missing peers are installed into .bench. Go and go-sqlite3 must be there (Debian's
golang-go and golang-github-mattn-go-sqlite3-dev): without them, or npm, that peer is
left out.
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
        ("--seconds", int, "how long each time (4; with --short 1)"),
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
    chosen.seconds = chosen.seconds or (1 if chosen.short else 4)
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
            count_calls=not chosen.short,
        )
        for text in chosen.left_out:
            run.note(text)
        measure_all(run, chosen.only, chosen.against)
    os.sched_setaffinity(0, cores)
    write(document(run), chosen.json, chosen.chart)
    print(f"\nLoad average before: {run.load_average:.1f}; more than 0.5 disturbs.\n")
    return judge(run, chosen.short)


def install_peers(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Install peers; return those that are there, and why others are left out."""
    found, left_out = [], []
    for name in names:
        try:
            PROGRAMS[name].install()
            found.append(name)
        except MissingError as exc:
            why = f"{PROGRAMS[name].title}: left out, this is missing: {exc}"
            left_out.append(why)
    return found, left_out


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
    INSTALLED.mkdir(exist_ok=True)
    chosen.against, chosen.left_out = install_peers(chosen.against)
    held = bench(chosen, chosen.rounds)
    if not held and chosen.short:
        print("\nOnce more, for longer.\n")
        chosen.seconds *= 2
        held = bench(chosen, ROUNDS)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
