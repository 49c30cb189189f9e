"""Keep the server waiting in every way, and look how others fare meanwhile.

    python -m checks.slow [--long]

Clients that send a byte a second, that send nothing, and that never read what they
ask for come from a second process, round by round. Each must be cut at the promised
time, and a reader that is slow but reads must get all of its list. An honest load
runs all the time, its requests going in turns to this server and to a second one that
no slow client comes to, so that what else the machine does is felt by both. Then many
idle clients come to a server that may open few files.
"""

import argparse
import asyncio
import select
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from checks.slow.clients import (
    DRIBBLERS,
    IDLE,
    LONG,
    READING,
    SHORT,
    SILENT,
    SLACK_SECONDS,
    STARVING,
    End,
    Kind,
    Size,
)
from checks.slow.load import Report, Rounds, fill, run_rounds
from checks.support.report import print_breaches, print_table
from checks.support.server_process import PROJECT, Server, call, read_reply
from checks.support.write_log import new_session

RATIO = 2.0


MEMORY_BASE, MEMORY_EACH = 16.0, 1 / 32
"""How many MiB slow clients may add to the resident memory: all of them, and each."""


FILES = 256


def judge_load(report: Report, found: Rounds) -> None:
    """Compare the load's times beside the slow clients with those without them.

    Without them it is what it was before and after, or what it is at the same time on
    the other server, where the machine was slower then.
    """
    names = ("alone", "while slow clients come", "beside them")
    phases = (found.alone, found.coming, found.together)
    here, there = ([found.load.p99(n, part) for part in phases] for n in (0, 1))
    for name, ours, other in zip(names, here, there, strict=True):
        seen = f"{ours:.1f} ms; on the other server {other:.1f} ms"
        report.row(f"p99 of other clients, {name}", "", seen, True)
    ratio = here[2] / max(here[0], there[2])
    what = "p99 of other clients, with and without them"
    report.row(what, f"ratio at most {RATIO:.0f}", f"{ratio:.2f}", ratio <= RATIO)
    statuses = Counter(sample.status for sample in found.load.samples)
    seen = ", ".join(f"{count} x {status}" for status, count in statuses.items())
    held = statuses.keys() <= {200, 201, 503}
    report.row("answers to other clients", "2xx or 503", seen, held)


def judge_kind(report: Report, kind: Kind, ends: list[End], patience: float) -> None:
    """Hold the ends of the slow clients of a kind against the promise."""
    statuses = {end.status for end in ends}
    first, last = span(end.cut for end in ends)
    promised = f"status {kind.status or 'none'}, at {kind.seconds:.0f} s"
    held = statuses == {kind.status} and last < kind.seconds + SLACK_SECONDS
    seen = f"status {statuses}, cut after {first:.1f} to {last:.1f} s"
    if kind.status == 408:
        first, last = span(end.answered for end in ends)
        seen += f", answered after {first:.1f} to {last:.1f} s"
    held = held and first > kind.seconds - 0.5
    if kind.seconds > patience:
        promised = f"kept for {kind.seconds:.0f} s"
        held, seen = first >= patience, f"open after {first:.0f} s"
    what = f"{len(ends)} x {kind.name}" + (", a byte a second" if kind.drip else "")
    report.row(what, promised, seen, held)


def span(seconds: Iterable[float]) -> tuple[float, float]:
    """Return the least and the most of some times."""
    times = sorted(seconds)
    return times[0], times[-1]


def ends_of(found: Rounds, name: str) -> list[End]:
    """Return how the slow clients of a name fared."""
    return [end for end in found.ends if end.name == name]


def start_filled(server: Server) -> Server:
    """Start a server on a database that has rows."""
    server.folder.mkdir()
    server.start().stop()
    fill(server.folder / "db.sqlite3")
    return server.start()


def slow_clients(folder: Path, size: Size, report: Report) -> None:
    """Run the rounds on a server with a long list, and judge them."""
    server, control = Server(folder / "server"), Server(folder / "control")
    try:
        start_filled(control)
        files, memory = start_filled(server).descriptors(), server.memory()
        server.reset_peak()
        found = asyncio.run(run_rounds(server, control, size))
        grown = server.memory("VmHWM") - memory
        judge_load(report, found)
        for kind in (*DRIBBLERS, SILENT, IDLE, STARVING):
            judge_kind(report, kind, ends_of(found, kind.name), size.patience)
        slow = ends_of(found, READING)
        seen = ", ".join(f"{end.status or 'cut'} {end.cut:.0f} s" for end in slow)
        held = all(end.status == 200 for end in slow)
        report.row(f"{len(slow)} x {READING}", "all of the list", seen, held)
        seen = f"{memory:.0f} MiB before, {grown:.0f} more at most"
        most = MEMORY_BASE + MEMORY_EACH * max(found.most)
        report.row("memory", f"at most {most:.0f} MiB more", seen, grown <= most)
        report.descriptors(server, files, max(found.most), "")
        report.log(server, "")
    finally:
        server.stop(signal.SIGKILL)
        control.stop(signal.SIGKILL)


def few_files(folder: Path, report: Report) -> None:
    """Let many idle clients come to a server that may open few files."""
    limited = ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh")
    server = Server(folder, {}, (*limited, sys.executable, str(PROJECT / "server.py")))
    name = f"{FILES} files: "
    try:
        server.start()
        call(server, "POST", "/api/v1/customer", {"name": "a", "address": "a"})
        files = server.descriptors()
        most = asyncio.run(crowd(server, report, name))
        report.descriptors(server, files, most, name)
        status = call(server, "GET", "/api/v1/purchase/1").status
        report.row(f"{name}the next request", "200", str(status), status == 200)
        report.log(server, name)
    finally:
        server.stop(signal.SIGKILL)


async def crowd(server: Server, report: Report, name: str) -> int:
    """Hold more connections than there are files; one that was there first writes."""
    path = f"{server.url}/api/v1/purchase/1"
    item = {"purchase_name": "honest", "quantity": 1}
    statuses: Counter[int] = Counter()
    async with new_session() as session:
        async with session.post(path, json=item) as reply:
            statuses[reply.status] += 1
        peers = [
            socket.create_connection(("127.0.0.1", server.port), 5)
            for _ in range(2 * FILES)
        ]
        await asyncio.sleep(1.0)
        files = server.descriptors()
        for _ in range(50):
            async with session.post(path, json=item) as reply:
                statuses[reply.status] += 1
    seen = ", ".join(f"{count} x {status}" for status, count in statuses.items())
    held = statuses.keys() == {201}
    report.row(f"{name}a client that was there first", "201", seen, held)
    judge_crowd(peers, report, name)
    report.row(f"{name}open at once", f"below {FILES}", f"{files}", files < FILES)
    return files


def judge_crowd(peers: list[socket.socket], report: Report, name: str) -> None:
    """See which of the idle clients are held and what the others were told."""
    told = [peer for peer in peers if select.select([peer], [], [], 0)[0]]
    answers = [read_reply(peer) for peer in told]
    refused = [answer for answer in answers if answer.status]
    faults = {fault for answer in refused for fault in answer.problem_faults()}
    statuses = Counter(answer.status for answer in refused)
    closed = len(answers) - len(refused)
    seen = f"{len(peers) - len(told)} held, {closed} closed, refused {dict(statuses)}"
    held = statuses.keys() <= {503} and closed > 0 and not faults
    promised = "held, or closed for a newer one, or 503"
    report.row(f"{name}{len(peers)} idle clients", promised, seen, held)
    report.breaches += faults
    for peer in peers:
        peer.close()


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="as many as promised")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        slow_clients(Path(folder), LONG if options.long else SHORT, report)
    with tempfile.TemporaryDirectory() as folder:
        few_files(Path(folder), report)
    print_table(("slow clients", "promised", "seen"), report.rows)
    return print_breaches(report.breaches)


if __name__ == "__main__":
    sys.exit(main())
