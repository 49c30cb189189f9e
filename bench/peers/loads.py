"""Put a load on a server, and say what it gave."""

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from bench.peers.programs import PEERS
from bench.peers.targets import Target, path_of
from checks.support.server_process import Server, request_bytes

CONNECTIONS = 64


@dataclass(frozen=True)
class Figure:
    """What a load gave: requests a second, latencies in ms, CPU µs for a request.

    `streamed` is how many rows of a long list were read meanwhile.
    """

    case: str
    server: str
    rate: float
    p50: float
    p99: float
    cpu: float
    errors: int
    streamed: int = 0


@dataclass(frozen=True)
class Load:
    """A load: its wrk script, every which request adds, and what goes on beside it."""

    script: str
    every: int
    stream: bool = False


LOADS = {"list": Load("load.lua", 0), "add": Load("load.lua", 1)}
OWN_LOADS = {"keyed add": Load("keyed.lua", 1), "mix": Load("mix.lua", 12)}
"""What no peer can answer. The mix: of 12 requests 8 lists, an add, a page of all
purchases, and two reads of a customer with an entity tag, answered 304."""

PERF = ("perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p")
"""Counts system calls of processes while a command runs (perf-stat(1))."""


def wrk(
    load: Load, target: Target, server: Server, cores: str, seconds: int
) -> list[str]:
    """Return the command that puts the load on one of a target's servers."""
    last = target.listed + target.added
    numbers = (load.every, 1, target.listed, target.listed + 1, last)
    connections = CONNECTIONS // len(target.servers)
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}"]
    command += [f"-d{seconds}s", "-s", str(PEERS / load.script), server.url]
    return [*command, "--", *map(str, numbers)]


def measure(case: str, load: Load, target: Target, cores: str, seconds: int) -> Figure:
    """Put a load on a target; of several servers the worse latencies count."""
    used = sum(server.cpu_seconds() for server in target.servers)
    nothing: AbstractContextManager[list[int]] = nullcontext([])
    with streaming(target) if load.stream else nothing as rows:
        running = [
            subprocess.Popen(
                wrk(load, target, server, cores, seconds), stdout=subprocess.PIPE
            )
            for server in target.servers
        ]
        seen = [json.loads(one.communicate()[0].splitlines()[-1]) for one in running]
    used = sum(server.cpu_seconds() for server in target.servers) - used
    goods = [one["requests"] - one["refused"] for one in seen]
    target.acknowledged += sum(goods) if load.every == 1 else 0
    return Figure(
        case,
        target.name,
        rate=sum(good / one["seconds"] for good, one in zip(goods, seen, strict=True)),
        p50=max(one["p50"] for one in seen) / 1000,
        p99=max(one["p99"] for one in seen) / 1000,
        cpu=used / max(sum(goods), 1) * 1e6,
        errors=sum(one["errors"] for one in seen),
        streamed=sum(rows),
    )


def count_calls(load: Load, target: Target, cores: str) -> float | None:
    """Return the system calls for a request, None where perf cannot count them."""
    if not shutil.which("perf"):
        return None
    server = target.server
    pids = ",".join(map(str, server.processes()))
    command = [*PERF, pids, "--", *wrk(load, target, server, cores, 1)]
    done = subprocess.run(command, capture_output=True, text=True)
    count = done.stderr.partition(",")[0]
    if done.returncode or not count.isdecimal():
        return None
    seen = json.loads(done.stdout.splitlines()[-1])
    good: int = seen["requests"] - seen["refused"]
    target.acknowledged += good if load.every == 1 else 0
    return int(count) / good if good else None


def read_long(
    server: Server,
    customer_id: int,
    pause: float = 0.0,
    stop: threading.Event | None = None,
) -> int:
    """Read a list, with a pause in seconds after every 16 KiB; return how many rows."""
    size = 16384 if pause else 1 << 18
    rows = -1  # the object that holds the list begins with a brace as well
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        peer.settimeout(30)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(request_bytes("GET", path_of(customer_id)))
        response = http.client.HTTPResponse(peer, method="GET")
        response.begin()
        while (chunk := response.read(size)) and not (stop and stop.is_set()):
            rows += chunk.count(b"{")
            time.sleep(pause)
    return rows


@contextmanager
def streaming(target: Target) -> Iterator[list[int]]:
    """Read the customer after all others again and again; yield how many rows came."""
    stop, customer_id = threading.Event(), target.listed + target.added + 1
    rows: list[int] = []

    def read() -> None:
        while not stop.is_set():
            rows.append(read_long(target.server, customer_id, stop=stop))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield rows
    finally:
        stop.set()
        reader.join()
