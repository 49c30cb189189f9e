"""Clients that leave in the middle, and many at once."""

import asyncio
import socket
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

from checks.faults.trial import CUSTOMERS, PURCHASES, Finding, Size, text_of
from checks.support.server_process import Server, request_bytes
from checks.support.write_log import (
    CHANCE,
    Client,
    Outcome,
    WriteLog,
    address_of,
    new_session,
    quantity_of,
)


async def clients_leave(server: Server, size: Size) -> Finding:
    """Leave in the middle of the body, or after it."""
    log, result = WriteLog(), Finding()
    for number in range(size.leavers):
        entry = log.new_entry(None)
        name = entry.new_name()
        body = f'{{"name": "{name}", "address": "{address_of(name)}"}}'.encode()
        request = request_bytes("POST", CUSTOMERS, body)
        if number % 2:
            request = request[: -len(body) // 2]
        else:
            log.note(entry, name, Outcome.UNKNOWN)
        await asyncio.to_thread(leave, server.port, request, number % 4 > 1)
    await asyncio.sleep(0.5)
    rows, half = result.audit(log, server.folder), size.leavers // 2
    result.figures = f"{half} left in the body, {half} after it: {rows} rows, all whole"
    return result


def leave(port: int, request: bytes, reset: bool) -> None:
    """Send bytes and be gone, with FIN or with RST."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(request)
        if reset:
            linger = struct.pack("ii", 1, 0)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def requests_cancelled(server: Server, size: Size) -> Finding:
    """Reset writes and lists, 32 at once, before or after the answer."""
    log, result, gate = WriteLog(), Finding(), asyncio.Semaphore(32)
    async with new_session() as session:
        client = Client(session, server.url, log, False)
        await client.add(None)
        for _ in range(50):
            await client.add(client.customers[0])

        async def one() -> None:
            async with gate:
                await abort(server.port, some_request(log, client))

        await asyncio.gather(*(one() for _ in range(size.cancelled)))
    await asyncio.sleep(0.5)
    result.breaches += open_transactions(server.folder / "db.sqlite3")
    rows = result.audit(log, server.folder)
    result.figures = f"{size.cancelled} cancelled: {rows} rows, none half, none locked"
    return result


def some_request(log: WriteLog, client: Client) -> bytes:
    """Return a write of unknown end, noted, or a list."""
    kind, customer = CHANCE.random(), client.customers[0]
    path = f"{PURCHASES}/{customer.id}"
    if kind < 0.1:
        return request_bytes("GET", path)
    row = CHANCE.choice(client.purchases)
    if kind < 0.2:
        log.note(row, None, Outcome.UNKNOWN)
        return request_bytes("DELETE", path, b'{"purchase_ids": [%d]}' % row.id)
    entry = row if kind < 0.5 else log.new_entry(customer)
    name = entry.new_name()
    log.note(entry, name, Outcome.UNKNOWN)
    body = f'{{"purchase_name": "{name}", "quantity": {quantity_of(name)}}}'.encode()
    if entry is row:
        return request_bytes("PATCH", f"{PURCHASES}/{row.id}", body)
    return request_bytes("POST", path, body)


async def abort(port: int, request: bytes) -> None:
    """Send a request and reset the connection a moment later."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await asyncio.sleep(CHANCE.uniform(0.0, 0.02))
    writer.transport.abort()


def open_transactions(database: Path) -> list[str]:
    """Return what keeps another process from writing and from a full checkpoint."""
    with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
            file.execute("ROLLBACK")
        except sqlite3.OperationalError as exc:
            return [f"a transaction stayed open: {exc}"]
        busy = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return ["a reading transaction stayed open"] if busy else []


async def many_clients(server: Server, size: Size) -> Finding:
    """Let each of many clients add a customer and two purchases, all at once."""
    log, result = WriteLog(), Finding()

    async def one(client: Client) -> None:
        await client.add(None)
        for customer in client.customers * 2:
            await client.add(customer)

    async with new_session(60.0) as session:
        clients = [Client(session, server.url, log, False) for _ in range(size.clients)]
        began = time.monotonic()
        await asyncio.gather(*map(one, clients))
        seconds = time.monotonic() - began
    rows, statuses = result.audit(log, server.folder), log.statuses()
    result.figures = (
        f"{size.clients} at once, {seconds:.1f} s:"
        f" {text_of(statuses.elements())}; {rows} rows"
    )
    result.expect(statuses.keys() <= {201, 503}, "another answer than 2xx and 503")
    result.expect(rows == statuses[201], "acknowledged and stored differ")
    return result
