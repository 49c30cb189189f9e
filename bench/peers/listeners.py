"""Follow the feed as many clients at once, and time how late its rows come.

    python -m bench.peers.listeners PORT LISTENERS SECONDS

Prints JSON: the seconds from the time of each row to its arrival at some of the
listeners, and how many rows and bytes came. The time of a row is from before its
commit.
"""

import json
import re
import selectors
import socket
import sys
import time
from datetime import datetime

TIMED = 20
"""How many of the listeners look at what comes; the others only read it."""
AT = re.compile(rb'^data: .{0,60}?"at":"([^"]+)Z"', re.MULTILINE)


def connect(port: int) -> socket.socket:
    """Return the connection of a client that listens from now on."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"GET /api/v1/changes?after=%d HTTP/1.1\r\nHost: localhost\r\n"
        b"Accept: text/event-stream\r\n\r\n" % newest(port)
    )
    return client


def newest(port: int) -> int:
    """Return the newest cursor."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"GET /api/v1/changes?order=desc&limit=1 HTTP/1.0\r\nHost: a\r\n\r\n"
        )
        text = b""
        while piece := client.recv(65536):
            text += piece
    found = re.search(rb'"cursor":"(\d+)"', text)
    return int(found[1]) if found else 0


def follow(clients: list[socket.socket], seconds: float) -> dict[str, object]:
    """Read whatever comes for some time."""
    selector = selectors.DefaultSelector()
    for number, client in enumerate(clients):
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, number)
    late: list[float] = []
    came, cut, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.1):
            data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
            if not data:
                cut += 1
                selector.unregister(key.fileobj)
            came += len(data)
            if key.data < TIMED:
                now = time.time()
                late += [
                    now - datetime.fromisoformat(f"{at.decode()}+00:00").timestamp()
                    for at in AT.findall(data)
                ]
    return {"late": late, "bytes": came, "cut": cut}


def main() -> None:
    """Listen, and print what was seen."""
    port, listeners, seconds = (int(text) for text in sys.argv[1:])
    clients = [connect(port) for _ in range(listeners)]
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    json.dump(follow(clients, seconds), sys.stdout)


if __name__ == "__main__":
    main()
