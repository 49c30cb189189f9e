"""Floods: many connections at once that hold the server, or would."""

import socket
import time
from collections.abc import Callable

from checks.hostile.case import IDLE_CPU, MEMORY_LIMIT, SECONDS_LIMIT
from checks.hostile.protocol import REST
from checks.support.server_process import Server, read_reply

TARGETS, HEADS, HEAD_TURNS = 5000, 1000, 4
HEADS_LIMIT = 64.0
"""How many MiB the connections that never end their heads may take."""
KEPT = b" HTTP/1.1" + REST.replace(b"close", b"keep-alive")
BAD_TARGETS = (
    b"GET http://xn--/",
    b"GET http://a:99999/livez",
    b"GET http://[::1/",
    b"CONNECT xn--a:443",
    b"GET http://a%zz/",
    b"GET ftp://a/",
    b"GET http://u@h/",
)


def bad_targets(server: Server) -> list[str]:
    """Send targets that cannot be read on many connections; return what they hold.

    A third of the clients go at once, a third hang up and read, a third stay.
    """
    descriptors, memory = server.descriptors(), server.memory()
    answered = True
    for _ in range(0, TARGETS, 500):
        peers = []
        for turn in range(500):
            peer = socket.create_connection(("127.0.0.1", server.port), SECONDS_LIMIT)
            peer.sendall(BAD_TARGETS[turn % len(BAD_TARGETS)] + KEPT)
            if turn % 3 == 0:
                peer.close()
                continue
            if turn % 3 == 1:
                peer.shutdown(socket.SHUT_WR)
            peers.append(peer)
        for peer in peers:
            answered = answered and read_reply(peer).status == 400
            peer.close()
    faults = [] if answered else ["not answered 400"]
    held = lowest(lambda: server.descriptors() - descriptors, 0)
    if held > 0:
        faults.append(f"{held:.0f} descriptors are held")
    if (grown := server.memory() - memory) > MEMORY_LIMIT:
        faults.append(f"memory grew by {grown:.0f} MiB")
    used = server.cpu_seconds()
    time.sleep(1)
    if (used := server.cpu_seconds() - used) > IDLE_CPU:
        faults.append(f"idle, it used {used:.2f} s of CPU in a second")
    return faults


def endless_heads(server: Server) -> list[str]:
    """Begin heads of 32 KiB on many connections and never end them."""
    before, grown, kept = server.memory(), 0.0, 0.0
    for _ in range(HEAD_TURNS):
        grown = max(grown, hold_heads(server) - before)
        # What the last wave left goes back once a second: it is not the next one's.
        kept = lowest(lambda: server.memory() - before, HEADS_LIMIT / 4)
    faults = []
    if grown > HEADS_LIMIT:
        faults.append(f"memory grew by {grown:.0f} MiB")
    if kept > HEADS_LIMIT / 4:
        faults.append(f"{kept:.0f} MiB of it did not come back")
    return faults


def hold_heads(server: Server) -> float:
    """Begin heads on many connections, then close them; return the memory between."""
    peers = [begin_head(server.port) for _ in range(HEADS)]
    time.sleep(0.5)
    held = server.memory()
    for peer in peers:
        peer.close()
    time.sleep(1)
    return held


def lowest(measure: Callable[[], float], enough: float) -> float:
    """Return a measure as soon as it is low enough, at the latest after a time."""
    until = time.monotonic() + SECONDS_LIMIT
    while (found := measure()) > enough and time.monotonic() < until:
        time.sleep(0.05)
    return found


def begin_head(port: int) -> socket.socket:
    """Return a connection on which almost 32 KiB of a head were sent."""
    peer = socket.create_connection(("127.0.0.1", port), SECONDS_LIMIT)
    peer.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n")
    for number in range(4):
        peer.sendall(b"A%d: %b\r\n" % (number, b"x" * 8000))
    return peer


FLOODS: dict[str, tuple[int, Callable[[Server], list[str]]]] = {
    "13 bad targets, at once": (TARGETS, bad_targets),
    "14 heads that never end, at once": (HEADS, endless_heads),
}
