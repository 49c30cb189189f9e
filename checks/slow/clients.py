"""Clients that send or read slowly."""

import asyncio
import select
import socket
import time
from contextlib import closing, suppress
from itertools import cycle
from typing import NamedTuple

SLACK_SECONDS = 5.0
"""How much later than promised a cut may be: the server looks once a second."""

TICK = 0.005
"""Seconds between two honest requests; none waits for another's answer."""


TOGETHER_SECONDS = 15.0
"""How long after their coming the first of them are cut for silence."""
IDLE_SECONDS = 75.0


SLOW_BYTES = 30_000
"""What the slow reader reads in a tenth of a second."""


class Kind(NamedTuple):
    """A way to be slow: what is sent at once, then a byte a second; and the promise.

    A 408 comes at its time and the cut soon after; without one, the cut is at its time.
    """

    name: str
    start: bytes
    drip: bytes
    status: int
    seconds: float


class End(NamedTuple):
    """How a slow client fared: the first status, the seconds to it and to the cut."""

    name: str
    status: int
    answered: float
    cut: float


class Size(NamedTuple):
    """How many slow clients of each sort, how often, and how long to look."""

    dribblers: int
    starving: int
    idle: int
    rounds: int
    alone: float
    patience: float


SHORT = Size(40, 5, 200, 1, 4.0, 20.0)
LONG = Size(200, 20, 2000, 3, 12.0, IDLE_SECONDS + 2 * SLACK_SECONDS)

HEAD = (
    b"POST /api/v1/customer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
)
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
LARGE_LIST = b"GET /api/v1/purchase/1 HTTP/1.1\r\nHost: a\r\n"
SIZED, CHUNKED = b"Content-Length: 999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
DRIBBLERS = (
    Kind("a head", HEAD + b"X-A: ", b"a", 0, 15.0),
    Kind("a second head", GET + b"\r\n" + HEAD + b"X-A: ", b"a", 200, 15.0),
    Kind("a body", HEAD + SIZED, b" ", 408, 10.0),
    Kind("a chunked body", HEAD + CHUNKED, b"1\r\n \r\n", 408, 10.0),
    Kind("a body that nobody reads", GET + SIZED, b" ", 200, 2.0),
)
SILENT = Kind("nothing at all", b"", b"", 0, 15.0)
IDLE = Kind("nothing after a request", GET + b"\r\n", b"", 200, IDLE_SECONDS)
STARVING = Kind("requests for a large list, reading nothing", b"", b"", 0, 15.0)
READING = "a request for a large list, reading slowly"


def attack(port: int, size: Size) -> list[End]:
    """Let all slow clients come at once; return how each fared."""
    return asyncio.run(attack_together(port, size))


async def attack_together(port: int, size: Size) -> list[End]:
    """Run all slow clients on one loop."""
    kinds = [DRIBBLERS[n % len(DRIBBLERS)] for n in range(size.dribblers)]
    kinds += [(SILENT, IDLE)[n % 2] for n in range(size.idle)]
    return await asyncio.gather(
        *(dribble(port, kind, size.patience) for kind in kinds),
        *(starve(port, size.patience) for _ in range(size.starving)),
        read_slowly(port),
    )


async def dribble(port: int, kind: Kind, patience: float) -> End:
    """Send as a kind does until the connection ends, or patience does; seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, drip, answered, status = time.monotonic(), cycle(kind.drip), 0.0, 0
    writer.write(kind.start)
    with suppress(OSError):
        while time.monotonic() - began < patience:
            try:
                piece = await asyncio.wait_for(reader.read(65536), 1.0)
            except TimeoutError:
                if kind.drip:
                    writer.write(bytes([next(drip)]))
                continue
            if not piece:
                break
            if not status:
                answered, status = time.monotonic() - began, int(piece[9:12])
    seconds = time.monotonic() - began
    writer.close()
    return End(kind.name, status, answered, seconds)


async def starve(port: int, patience: float) -> End:
    """Ask for a large list again and again and read nothing; seconds."""
    with closing(await narrow(port)) as peer, suppress(OSError):
        began = time.monotonic()
        hung_up = select.poll()
        hung_up.register(peer, select.POLLERR | select.POLLHUP)
        while time.monotonic() - began < patience and not hung_up.poll(0):
            with suppress(BlockingIOError):  # the server reads no more either
                peer.send((LARGE_LIST + b"\r\n") * 10)
            await asyncio.sleep(0.5)
    return End(STARVING.name, 0, 0.0, time.monotonic() - began)


async def narrow(port: int) -> socket.socket:
    """Return a connection whose receive buffer is small."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    return peer


async def read_slowly(port: int) -> End:
    """Read a list slowly past the time that stuck clients get, then the rest of it."""
    reader, writer = await asyncio.open_connection(sock=await narrow(port), limit=65536)
    writer.write(LARGE_LIST + b"Connection: close\r\n\r\n")
    began, end = time.monotonic(), b""
    with suppress(OSError):
        while piece := await reader.read(SLOW_BYTES):
            end = (end + piece)[-10:]
            if time.monotonic() - began < STARVING.seconds + SLACK_SECONDS:
                await asyncio.sleep(0.1)
    writer.close()
    status = 200 if end.endswith(b"]}\r\n0\r\n\r\n") else 0
    return End(READING, status, 0.0, time.monotonic() - began)
