"""Put a load on a server, and say what it gave."""

import http.client
import json
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


def measure(case: str, load: Load, target: Target, cores: str, seconds: int) -> Figure:
    """Put a load on a server."""
    last = target.listed + target.added
    numbers = (load.every, 1, target.listed, target.listed + 1, last)
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{CONNECTIONS}"]
    command += [f"-d{seconds}s", "-s", str(PEERS / load.script), target.server.url]
    command += ["--", *map(str, numbers)]
    used = target.server.cpu_seconds()
    nothing: AbstractContextManager[list[int]] = nullcontext([])
    with streaming(target) if load.stream else nothing as rows:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    used = target.server.cpu_seconds() - used
    seen = json.loads(done.stdout.splitlines()[-1])
    good = seen["requests"] - seen["refused"]
    target.acknowledged += good if load.every == 1 else 0
    return Figure(
        case,
        target.name,
        rate=good / seen["seconds"],
        p50=seen["p50"] / 1000,
        p99=seen["p99"] / 1000,
        cpu=used / max(good, 1) * 1e6,
        errors=seen["errors"],
        streamed=sum(rows),
    )


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
