"""Measures how long others wait while one client asks for heavy reports."""

import http.client
import json
import threading
import time
from itertools import cycle

from checks.deleting import Adders
from checks.support.import_database import read
from checks.support.server_process import Server

SECONDS = 1.5
"""How long others are measured without the reports, and with them."""
FLOOR, FACTOR = 0.2, 2.0
"""The 99th percentile beside reports is at most so many seconds; on a slow machine, so
many times what it is without."""
REPORT = "/api/v1/summary?by=customer"


class Listers(Adders):
    """Clients that list the purchases of one customer after the other."""

    def add(self) -> None:
        """Read lists until told to stop."""
        peer = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        for customer in cycle(range(1, 501)):
            if self.stopped:
                break
            began = time.monotonic()
            peer.request("GET", f"/api/v1/purchase/{customer}?limit=100")
            reply = peer.getresponse()
            reply.read()
            self.refused += reply.status != 200
            self.took.append(time.monotonic() - began)
            time.sleep(0.002)
        peer.close()


class Reporter:
    """A client that asks for one report after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.took: list[float] = []
        self.stopped = False
        self.thread = threading.Thread(target=self.ask)

    def ask(self) -> None:
        """Ask until told to stop."""
        while not self.stopped:
            began = time.monotonic()
            read(self.server, REPORT)
            self.took.append(time.monotonic() - began)

    def __enter__(self) -> "Reporter":
        """Begin."""
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stopped = True
        self.thread.join()


def p99_of(seconds: list[float]) -> float:
    """Return the 99th percentile of some times."""
    return sorted(seconds)[len(seconds) * 99 // 100]


def measure(clients: dict[str, Adders]) -> dict[str, float]:
    """Return the 99th percentile of what each kind of client waits for some time."""
    marks = {kind: len(of.took) for kind, of in clients.items()}
    time.sleep(SECONDS)
    return {kind: p99_of(of.took[marks[kind] :]) for kind, of in clients.items()}


def try_report(server: Server, adders: Adders) -> tuple[dict[str, object], list[str]]:
    """Return figures of adds and lists beside reports, and what was wrong."""
    wrong = []
    with Listers(server, 0) as listers:
        clients = {"adds": adders, "lists": listers}
        quiet = measure(clients)
        with Reporter(server) as reporter:
            beside = measure(clients)
    figures: dict[str, object] = {}
    for kind, seconds in beside.items():
        shown = f"{1000 * quiet[kind]:.0f}, {1000 * seconds:.0f}"
        figures[f"{kind}: p99 without reports, and beside, ms"] = shown
        if seconds > max(FLOOR, FACTOR * quiet[kind]):
            wrong.append(f"p99 of {kind} without reports and beside, ms: {shown}")
    if listers.refused:
        wrong.append(f"{listers.refused} lists were refused")
    if not reporter.took:
        return figures, [*wrong, "no report was answered"]
    middle = sorted(reporter.took)[len(reporter.took) // 2]
    figures["reports, and median of one, s"] = f"{len(reporter.took)}, {middle:.2f}"
    return figures, wrong


def sum_of_report(server: Server) -> int:
    """Return the number of purchases by the sums of the report."""
    lines = read(server, REPORT).body.splitlines()
    return sum(json.loads(line)["purchases"] for line in lines)
