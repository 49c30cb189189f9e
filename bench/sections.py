"""The sections of the benchmark: each measures one thing."""

import itertools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from bench.peers.loads import (
    LOADS,
    OWN_LOADS,
    Figure,
    Load,
    count_calls,
    measure,
    read_long,
)
from bench.peers.programs import OURS, PROGRAMS
from bench.peers.targets import (
    EACH,
    SHORT_LISTS,
    Place,
    Target,
    check_mix,
    path_of,
    start,
    start_all,
    wait_idle,
)
from checks.support.report import print_table
from checks.support.server_process import call

NOT_PORTABLE = {("add", "fastify")}
"""Fastify pays an fsync for each add, this server its processor: on a machine of slow
processors and a quick disk the ratio of one commit fell from 4.4 to 2.6."""
PEERS = {*PROGRAMS} - {OURS, "head"}
ROUNDS = 5
LONG = 500_000
"""How many purchases a long list has."""


@dataclass(frozen=True)
class Goal:
    """A claim, its bound and what was seen; `least` says which way it goes.

    One that is not `portable` holds for some machines only.
    """

    what: str
    bound: float
    seen: float
    least: bool = False
    portable: bool = True

    def missed(self, slack: float = 1.0) -> bool:
        """Say whether it was missed, by more than a share of the bound."""
        if self.least:
            return self.seen < self.bound * slack
        return self.seen > self.bound / slack


@dataclass
class Run:
    """The settings of a run and what it has found so far.

    `notes` say how something was measured.
    """

    rounds: int
    seconds: int
    load_core: str
    pinned: Place
    unpinned: Place
    count_calls: bool = True
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    figures: list[Figure] = field(default_factory=list)
    others: dict[str, float] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Tell how something was measured, and keep it."""
        self.notes.append(text)
        print(f"{text}\n")

    def values(self, case: str, server: str, what: str) -> list[float]:
        """Return one figure of every round."""
        return [
            getattr(figure, what)
            for figure in self.figures
            if (figure.case, figure.server) == (case, server)
        ]

    def ratio(self, case: str, what: str, server: str, other: str) -> float:
        """Return the median of the rounds' ratios of one server to another."""
        ours, theirs = self.values(case, server, what), self.values(case, other, what)
        return median(one / two for one, two in zip(ours, theirs, strict=True))

    def goal(
        self,
        what: str,
        bound: float,
        seen: float,
        least: bool = False,
        portable: bool = True,
    ) -> None:
        """Hold a figure against its bound."""
        self.goals.append(Goal(what, bound, seen, least, portable))


def interleave(
    run: Run, targets: Sequence[Target], loads: Mapping[str, Load], cores: str = ""
) -> None:
    """Measure every load on every server in turn, each round in another order.

    After it has added, a server is let do what it has put off, so that this does not
    disturb the others.
    """
    cores = cores or run.load_core
    for (case, load), target in itertools.product(loads.items(), targets):
        measure(case, load, target, cores, 1)  # to warm up
    for number in range(run.rounds):
        turn = number % len(targets)
        for case, load in loads.items():
            for target in [*targets[turn:], *targets[:turn]]:
                figure = measure(case, load, target, cores, run.seconds)
                run.figures.append(figure)
                if load.every and target.name not in PEERS:
                    for server in target.servers:
                        wait_idle(server)
    counted = itertools.product(loads.items(), targets) if run.count_calls else ()
    for (case, load), target in counted:
        calls = count_calls(load, target, cores)
        if calls is not None:
            run.others[f"{case}, {target.name}: system calls a request"] = calls
    ours = [figure for figure in run.figures if figure.server not in PEERS]
    failed = sum(figure.errors for figure in ours if figure.case in loads)
    run.goal(f"{', '.join(loads)}: errors", 0, failed)


GOALS = (
    ("list", "limit", "rate", 0.80),
    ("add", "limit", "rate", 0.65),
    ("list", "fastify", "rate", 1.2),
    ("add", "fastify", "rate", 3.5),
    ("list", "go", "rate", 1.2),
    ("add", "go", "rate", 2.5),
    ("list", "blacksheep", "rate", 1.2),
    ("add", "blacksheep", "rate", 2.5),
    ("list", "fastapi", "rate", 15.0),
    ("add", "fastapi", "rate", 15.0),
    ("list", "limit", "p99", 2.0),
    ("add", "limit", "p99", 2.0),
)


def peers(run: Run, names: Sequence[str], cases: Sequence[str]) -> None:
    """Compare lists and durable adds with the limit and the peers."""
    loads = {case: LOADS[case] for case in cases}
    with ExitStack() as stack:
        targets = start_all(stack, run.pinned, names)
        interleave(run, targets, loads)
        if "add" in cases:
            count_lost(run, [target for target in targets if target.name != "limit"])
    print_loads(run, loads, [OURS, *names])
    for case, name, what, bound in GOALS:
        if case in cases and name in names:
            title = f"{case}, {'requests/s' if what == 'rate' else what} / {name}'s"
            seen = run.ratio(case, what, OURS, name)
            portable = (case, name) not in NOT_PORTABLE
            run.goal(title, bound, seen, least=what == "rate", portable=portable)


def own_loads(run: Run, names: Sequence[str]) -> None:
    """Measure adds with idempotency keys and without, and a mix of requests."""
    loads = {"add, beside keyed": LOADS["add"], **OWN_LOADS}
    others = [name for name in names if name == "head"]
    with ExitStack() as stack:
        targets = start_all(stack, run.pinned, others)
        for target in targets:
            check_mix(target.server)
        interleave(run, targets, loads)
        count_lost(run, targets)
    print_loads(run, loads, [OURS, *others])
    keyed = run.values("keyed add", OURS, "rate")
    plain = run.values("add, beside keyed", OURS, "rate")
    seen = median(one / two for one, two in zip(keyed, plain, strict=True))
    run.goal("keyed add, requests/s / add's", 0.75, seen, least=True)


def count_lost(run: Run, targets: Sequence[Target]) -> None:
    """Count the purchases that were answered 201 and are not in the database."""
    for target in targets:
        same = [other for other in targets if other.server is target.server]
        answered = sum(other.acknowledged for other in same)
        lost = max(answered - target.stored(), 0)
        run.goal(f"add, {target.name}: answered and not stored", 0, lost)


def unpinned(run: Run) -> None:
    """Compare with the limit where server and load may both use both cores."""
    loads = {f"{case}, not pinned": load for case, load in LOADS.items()}
    with ExitStack() as stack:
        targets = start_all(stack, run.unpinned, ["limit"])
        interleave(run, targets, loads, run.unpinned.cores)
    print_loads(run, loads, [OURS, "limit"])


def mixed(run: Run) -> None:
    """Measure the latency of lists alone, among adds and beside a long stream."""
    alone, among, beside = "lists", "4 lists to 1 add", "the same and a long stream"
    loads = {
        alone: Load("mixed.lua", 0),
        among: Load("mixed.lua", 5),
        beside: Load("mixed.lua", 5, stream=True),
    }
    with ExitStack() as stack:
        server = start(stack, run.pinned, OURS, [*SHORT_LISTS, LONG])
        interleave(run, [Target(OURS, server)], loads)
    print("The latencies are those of the lists.\n")
    print_loads(run, loads, [OURS])
    before = median(run.values(alone, OURS, "p99"))
    for case in (among, beside):
        seen = median(run.values(case, OURS, "p99")) / before
        run.goal(f"{case}: p99 of lists / alone", 2.0, seen)
    streamed = min(run.values(beside, OURS, "streamed")) / run.seconds
    run.goal("the long stream: rows a second", 1, streamed, least=True)


def memory(run: Run) -> None:
    """Measure by how much a long list makes the process grow."""
    table = []
    with ExitStack() as stack:
        server = start(stack, run.pinned, OURS, [LONG, EACH])
        for way, pause in (("fast", 0.0), ("slowly", 0.002)):
            call(server, "GET", path_of(2))
            server.reset_peak()
            before, began = server.memory(), time.monotonic()
            rows = read_long(server, 1, pause)
            took, grown = time.monotonic() - began, server.memory("VmHWM") - before
            table.append((way, rows, f"{took:.1f}", f"{before:.1f}", f"{grown:.1f}"))
            run.others[f"long list read {way}: seconds"] = took
            run.goal(f"long list read {way}: MiB grown", 32, grown)
            run.goal(f"long list read {way}: rows missing", 0, abs(LONG - rows))
    print_table(("list read", "rows", "seconds", "MiB before", "MiB grown"), table)
    print()


def print_loads(run: Run, cases: Iterable[str], servers: Sequence[str]) -> None:
    """Print the medians, and the first server's rate as a ratio to each one's."""
    titles = {name: PROGRAMS[name].title for name in servers if name in PROGRAMS}
    rows = []
    for case, name in itertools.product(cases, servers):
        found = {
            what: run.values(case, name, what) for what in ("rate", "p50", "p99", "cpu")
        }
        rate, p50, p99, cpu = map(median, found.values())
        ratio = run.ratio(case, "rate", servers[0], name)
        calls = run.others.get(f"{case}, {name}: system calls a request")
        figures = [f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.0f}"]
        figures.append("-" if calls is None else f"{calls:.2f}")
        errors = sum(run.values(case, name, "errors"))
        rows.append((case, titles.get(name, name), *figures, f"{ratio:.2f}", errors))
    ratio_to = f"{titles.get(servers[0], servers[0])} / it"
    columns = ("requests/s", "p50, ms", "p99, ms", "CPU, µs", "calls")
    print_table(("load", "server", *columns, ratio_to, "errors"), rows)
    print()
