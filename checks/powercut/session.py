"""A folder in which servers and other programs run recorded."""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp

from checks.powercut.faults import Faults
from checks.powercut.judge import MARK, Start
from checks.powercut.ledger import DATABASE
from checks.powercut.recording import RECORD, Kind, recorded
from checks.support.server_process import PROJECT, Reply, Server
from checks.support.undoing_client import UndoingClient
from checks.support.write_log import CHANCE, Entry, Outcome, WriteLog, new_session

COPY = """
import pathlib, sys
source, destination = map(pathlib.Path, sys.argv[1:])
destination.write_bytes(source.read_bytes())
"""
"""Copies a file and hands nothing to the disk, as `cp` does."""
STORED_SECONDS = 20.0
"""How long a POST may have to wait for a server that starts, or checks its database."""


class Session:
    """Servers and other programs on one folder, recorded in one log."""

    def __init__(self, folder: Path, changes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.root = folder / "disk"
        self.root.mkdir()
        self.log = folder / "calls"
        self.log.touch()
        self.changes = ["small", "often", *changes]
        self.faults = Faults(folder / "faults")
        self.start = Start.of(self.root)
        self.database = self.root / DATABASE
        self.after_answer = False
        """Whether to cut the power only after the first answer."""
        self.floor = 0
        """The row of the history that clients knew of before the recording."""

    def begin(self) -> None:
        """Take what is there now for what is on disk, and record from here on."""
        self.start = Start.of(self.root)
        self.log.write_bytes(b"")

    @property
    def env(self) -> dict[str, str]:
        """The environment of what is recorded."""
        return {
            **recorded(self.root, self.log, self.faults.path),
            "PYTHONPATH": str(PROJECT),
            "DATABASE_URL": f"sqlite:///{self.database}",
        }

    @property
    def command(self) -> list[str]:
        """The command of the server."""
        module = "checks.powercut.changed_server"
        return [sys.executable, "-m", module, ",".join(self.changes)]

    def server(self, env: Mapping[str, str] | None = None) -> Server:
        """Return a server that is not started."""
        return Server(self.folder, {**self.env, **(env or {})}, self.command)

    def run(self, *arguments: str) -> None:
        """Run a command of the server. RuntimeError if it fails."""
        self._run([*self.command, *arguments])

    def copy(self, source: Path, destination: Path) -> None:
        """Copy a file as `cp` does."""
        self._run([sys.executable, "-c", COPY, str(source), str(destination)])

    def _run(self, command: Sequence[str]) -> None:
        env = {**os.environ, **self.env}
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace")[-500:])

    def mark(self, name: str = "") -> None:
        """Note in the log that a file has to be there from now on."""
        path = f"{MARK}{name}".encode()
        size = RECORD.size + len(path)
        record = RECORD.pack(size, 0, 0, Kind.SEND, 0, 0, 0, 0, 0, len(path), 0, 0)
        with self.log.open("ab", buffering=0) as log:
            log.write(record + path)


class PowerClient(UndoingClient):
    """A client that also imports files, erases customers and sends POSTs again."""

    async def step(self) -> Outcome:
        """Send one write of any kind."""
        kind = CHANCE.random()
        if kind < 0.04:
            return await self.bring()
        if kind < 0.08 and len(self.customers) > 1:
            return await self.erase(self.customers[-1])
        answered = [row for row in self.purchases if row.first and row.key]
        if kind < 0.15 and answered:
            return await self.post(CHANCE.choice(answered))
        return await super().step()

    async def bring(self) -> Outcome:
        """Import a file of some purchases."""
        headers = {"Content-Type": "text/csv"}
        url = f"{self.url}/imports"
        try:
            async with self.session.post(
                url, data=import_file(20), headers=headers
            ) as reply:
                await reply.read()
                return Outcome.ACKNOWLEDGED if reply.ok else Outcome.REFUSED
        except (aiohttp.ClientError, OSError):
            return Outcome.UNKNOWN

    async def erase(self, customer: Entry) -> Outcome:
        """Erase a customer for good."""
        path = f"/customer/{customer.id}?purge=true"
        answer = await self.send("DELETE", path, {}, None, None)
        self.customers.remove(customer)
        self.purchases = [row for row in self.purchases if row.customer is not customer]
        self.done.clear()
        return Outcome.ACKNOWLEDGED if answer else Outcome.UNKNOWN


async def load(
    server: Server,
    clients: int,
    steps: int,
    kind: type[UndoingClient] = PowerClient,
    log: WriteLog | None = None,
) -> WriteLog:
    """Let clients send some writes each, or until one is not answered.

    One follows the feed meanwhile, and so is told of what others wrote.
    """
    log = log or WriteLog()

    async def one(client: UndoingClient) -> None:
        if await client.add(None) is Outcome.UNKNOWN:
            return
        for _ in range(steps):
            if await client.step() is Outcome.UNKNOWN:
                return

    async with new_session() as http:
        reading = asyncio.create_task(_follow(http, server.url))
        await asyncio.gather(
            *(one(kind(http, server.url, log, True)) for _ in range(clients))
        )
        reading.cancel()
    return log


async def _follow(http: aiohttp.ClientSession, url: str) -> None:
    path = f"{url}/api/v1/changes?order=desc&limit=1"
    with suppress(aiohttp.ClientError, OSError):
        while True:
            async with http.get(path) as reply:
                await reply.read()
            await asyncio.sleep(0.002)


def import_file(rows: int) -> bytes:
    """Return a file of purchases, each of a customer of its own, to import."""
    lines = "".join(f"{uuid.uuid4()},Delft,{uuid.uuid4()},1\n" for _ in range(rows))
    return f"customer_name,customer_address,purchase_name,quantity\n{lines}".encode()


def until_stored(post: Callable[[], Reply]) -> Reply:
    """Send a POST until it is answered 201. RuntimeError after some seconds."""
    end = time.monotonic() + STORED_SECONDS
    while (reply := post()).status != 201:
        if time.monotonic() > end:
            raise RuntimeError(f"the POST was answered {reply.status}")
        time.sleep(0.02)
    return reply
