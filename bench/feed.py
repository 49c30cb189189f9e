"""The section of the benchmark that measures listeners of the feed."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.peers.programs import OURS, PROJECT
from bench.peers.targets import start
from bench.sections import Run
from checks.support.report import print_table
from checks.support.server_process import Server

LISTENERS, ADDS = 1000, 500
"""How many listen, and how many purchases a second are added meanwhile."""
ADDERS = 8
BODY = json.dumps({"purchase_name": "Iphone 12 Pro", "quantity": 4})
HEADERS = {"Content-Type": "application/json"}


def add_paced(server: Server, seconds: float) -> list[float]:
    """Add purchases at a steady pace; return the seconds that each took."""
    took: list[float] = []
    end = time.monotonic() + seconds

    def add() -> None:
        peer = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        due = time.monotonic()
        while due < end:
            time.sleep(max(due - time.monotonic(), 0.0))
            began = time.monotonic()
            peer.request("POST", "/api/v1/purchase/1", BODY, HEADERS)
            reply = peer.getresponse()
            reply.read()
            if reply.status == 201:
                took.append(time.monotonic() - began)
            due += ADDERS / ADDS

    threads = [threading.Thread(target=add) for _ in range(ADDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def listen(run: Run, server: Server, seconds: int) -> tuple[dict[str, Any], float]:
    """Let clients listen while purchases are added; return what they saw, and MiB."""
    before = server.memory()
    command = (*("taskset", "-c", run.load_core, sys.executable), "-m")
    arguments = map(str, (server.port, LISTENERS, seconds))
    with subprocess.Popen(
        (*command, "bench.peers.listeners", *arguments),
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        grown = server.memory() - before
        found = {"took": add_paced(server, seconds - 1.0)}
        return found | json.loads(process.stdout.read()), grown


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, in milliseconds."""
    return sorted(values)[int(len(values) * share)] * 1000


def listeners(run: Run) -> None:
    """Measure how late rows come to many listeners, and what these cost the adds."""
    seconds = 3 * run.seconds
    rows = []
    with ExitStack() as stack:
        server = start(stack, run.pinned, OURS, [0])
        add_paced(server, 1.0)
        for _ in range(run.rounds):
            cpu = server.cpu_seconds()
            alone = add_paced(server, seconds - 1.0)
            alone_cpu = server.cpu_seconds() - cpu
            found, grown = listen(run, server, seconds)
            cpu = (server.cpu_seconds() - cpu - alone_cpu) / seconds
            late, took = found["late"], found["took"]
            rows.append(
                (
                    len(alone) / (seconds - 1),
                    len(took) / (seconds - 1),
                    percentile(alone, 0.99),
                    percentile(took, 0.99),
                    percentile(late, 0.5),
                    percentile(late, 0.99),
                    grown * 1024 / LISTENERS,
                    cpu,
                    len(late) / 20 / len(took),
                    found["cut"],
                )
            )
    columns = (
        *("adds/s alone", "adds/s", "p99 of adds alone, ms", "p99 of adds, ms"),
        *("late p50, ms", "late p99, ms", "KiB a listener", "cores", "rows seen"),
        "cut",
    )
    middle = [median(column) for column in zip(*rows, strict=True)]
    print_table(columns, [[f"{figure:.3g}" for figure in middle]])
    print()
    run.goal(f"{LISTENERS} listeners: p99 of a row, s", 0.5, middle[5] / 1000)
    run.goal("adds/s beside them / alone", 0.8, middle[1] / middle[0], least=True)
    run.goal("rows that listeners missed", 0, abs(1 - middle[8]))
    run.goal("listeners that were cut", 0, middle[9])
