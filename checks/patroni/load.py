"""Clients that write by one way, and what they and `/readyz` saw."""

import asyncio
import time
from bisect import bisect
from itertools import pairwise
from pathlib import Path

import aiohttp

from checks.failover.pair import PersistentClient, Seen
from checks.support.server_process import Server
from checks.support.write_log import WriteLog

CLIENTS = 8
PAUSE_SECONDS = 0.02
"""How long a client waits between two writes."""
ASK_SECONDS = 0.1
"""How often a server is asked whether it is ready."""
READY_SECONDS = 3.0
"""How long `/readyz` may say 200 though no write is acknowledged."""
RESUME_SECONDS = 1.0
"""How long after a 200 the first write may be acknowledged."""
STEADY_SECONDS = 2.0
"""How long writes go on, before and after, where a 503 would be wrong."""
STILL_SECONDS = 0.5
"""Writes that are further apart than this do not go on."""


class Way:
    """A server, its clients, and who asks whether it is ready."""

    def __init__(
        self, name: str, server: Server, session: aiohttp.ClientSession
    ) -> None:
        self.name = name
        self.server = server
        self.log = WriteLog()
        self.stop = asyncio.Event()
        self.clients = [
            PersistentClient(session, [server], self.log) for _ in range(CLIENTS)
        ]
        runs = [client.run(self.stop, PAUSE_SECONDS) for client in self.clients]
        self.seen: list[Seen] = []
        self.tasks = [
            asyncio.create_task(run) for run in (*runs, self._ask_ready(session))
        ]

    async def _ask_ready(self, session: aiohttp.ClientSession) -> None:
        """Ask whether the server is ready until told to stop."""
        while not self.stop.is_set():
            began = time.monotonic()
            async with session.get(f"{self.server.url}/readyz") as reply:
                await reply.read()
            ended = time.monotonic()
            self.seen.append(Seen("/readyz", began, ended, reply.status))
            await asyncio.sleep(ASK_SECONDS)

    async def finish(self) -> None:
        """Let everybody come to an end."""
        self.stop.set()
        await asyncio.gather(*self.tasks)

    def acknowledged(self) -> list[float]:
        """Return when writes were acknowledged, in order."""
        return sorted(one.ended for one in self.log.sent if 200 <= one.status < 300)

    def longest_gap(self, began: float, ended: float) -> float:
        """Return the longest time without an acknowledged write, of a time; seconds."""
        times = self.acknowledged()
        times = [began, *times[bisect(times, began) : bisect(times, ended)], ended]
        return max(after - before for before, after in pairwise(times))

    def asked(self, began: float, ended: float) -> list[Seen]:
        """Return what `/readyz` said between two times."""
        return [seen for seen in self.seen if began < seen.began < ended]

    def wrongly_ready(self, began: float, ended: float) -> list[float]:
        """Return when `/readyz` said 200 and no write was acknowledged."""
        times = self.acknowledged()
        return [
            seen.began
            for seen in self.asked(began, ended)
            if seen.status == 200
            and is_gap(times, seen.began - READY_SECONDS, seen.ended + RESUME_SECONDS)
        ]

    def wrongly_away(self, began: float, ended: float) -> list[float]:
        """Return when `/readyz` said 503 though writes went on all along."""
        times = self.acknowledged()
        return [
            seen.began
            for seen in self.asked(began, ended)
            if seen.status != 200
            and is_steady(
                times, seen.began - STEADY_SECONDS, seen.ended + STEADY_SECONDS
            )
        ]


def is_gap(times: list[float], began: float, ended: float) -> bool:
    """Return whether none of the times is between two."""
    return bisect(times, began) == bisect(times, ended)


def is_steady(times: list[float], began: float, ended: float) -> bool:
    """Return whether the times go on from one to the other, STILL_SECONDS apart."""
    within = [began, *times[bisect(times, began) : bisect(times, ended)], ended]
    return all(after - before < STILL_SECONDS for before, after in pairwise(within))


def joined(logs: list[WriteLog]) -> WriteLog:
    """Return one write log of several."""
    whole = WriteLog()
    for log in logs:
        whole.entries += log.entries
        whole.sent += log.sent
        whole.wrong += log.wrong
        whole.together += log.together
    return whole


def new_folder(parent: Path, name: str) -> Path:
    """Return a new folder."""
    folder = parent / name
    folder.mkdir()
    return folder
