"""Look for stale reads while a primary, or the replica that reads are from, fails.

    python -m checks.stale [--rounds 1]

Two servers share a primary and read from its standby. Each client counts up the
quantity of a purchase of its own, by either server, and reads it back as a row, in a
list and in a sum, by either server, with and without the `Change` of its last write.
Meanwhile the primary is killed, frozen and started again, the standby stands still, and
goes. A reply must show the client's last acknowledged write if it has no `Age`, if it
is of the server that acknowledged it, or if its request had the `Change`; and whatever
was acknowledged more than its `Age` ago in any case. Else it must be 503. Where commits
wait for the standby, reads must go on while the primary is away.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from checks.support.postgres_cluster import Cluster, cluster, folders
from checks.support.report import print_breaches, print_table
from checks.support.server_process import serving
from checks.support.write_log import CHANCE, new_session

CLIENTS = 8
FAULT_SECONDS, REST_SECONDS = 4.0, 3.0
"""How long a fault lasts, and how long all is well between two."""
PAUSE_SECONDS = 0.01
"""How long a client waits after an answer."""
FASTER = {"wal_retrieve_retry_interval": "200ms"}


class Acknowledged(NamedTuple):
    """A write: when it was acknowledged and by which server, quantity and change."""

    at: float
    url: str
    quantity: int
    change: str


@dataclass
class Figures:
    """What all clients saw."""

    fault: str = "none"
    """The fault under way."""
    writes: int = 0
    replies: Counter[tuple[str, int, bool]] = field(default_factory=Counter)
    """Reads by fault, status, and whether the reply had an Age."""
    breaches: list[str] = field(default_factory=list)

    def stops(self, fault: str) -> str:
        """Return that reads did not go on in a fault, "" if they did."""
        read = sum(self.replies[fault, 200, has_age] for has_age in (False, True))
        refused = self.replies[fault, 503, False]
        if read >= LEAST_SHARE * (read + refused):
            return ""
        return f"{fault}: {refused} of {read + refused} reads were refused"


@dataclass
class Client:
    """Writes and reads one purchase."""

    session: aiohttp.ClientSession
    urls: list[str]
    figures: Figures
    customer: str = ""
    purchase: str = ""
    quantity: int = 1
    writes: list[Acknowledged] = field(default_factory=list)

    async def begin(self) -> None:
        """Create the purchase."""
        url = self.urls[0]
        new: dict[str, Any] = {"name": "Ada", "address": ""}
        async with self.session.post(f"{url}/api/v1/customer", json=new) as reply:
            self.customer = (await reply.json())["data"]["id"]
        new = {"purchase_name": "x", "quantity": 1}
        path = f"{url}/api/v1/purchase/{self.customer}"
        async with self.session.post(path, json=new) as reply:
            self.purchase = (await reply.json())["data"]["id"]

    async def run(self, stop: asyncio.Event) -> None:
        """Write, and read meanwhile, until told to stop."""

        async def repeat(act: Callable[[str], Awaitable[None]]) -> None:
            while not stop.is_set():
                await act(CHANCE.choice(self.urls))
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(repeat(self.write), repeat(self.read))

    async def write(self, url: str) -> None:
        """Count up, acknowledged or not."""
        self.quantity += 1
        path = f"{url}/api/v1/purchase/{self.purchase}"
        body = {"quantity": self.quantity}
        async with self.session.patch(path, json=body) as reply:
            if reply.status == 200:
                self.figures.writes += 1
                written = time.monotonic(), url, self.quantity, reply.headers["Change"]
                self.writes.append(Acknowledged(*written))
            elif reply.status != 503:
                self.figures.breaches.append(f"{path}: {reply.status}")

    async def read(self, url: str) -> None:
        """Read the quantity in some way, and judge the reply."""
        customer = self.customer
        path = CHANCE.choice(
            (
                f"purchase/{customer}",
                f"customer/{customer}/purchase/{self.purchase}",
                f"customer?customer_id={customer}&order=desc",
                f"summary?by=customer&customer_id={customer}",
            )
        )
        headers: dict[str, str] = {}
        if self.writes and CHANCE.random() < 0.5:
            headers["Change"] = self.writes[-1].change
        began, fault = time.monotonic(), self.figures.fault
        target = f"{url}/api/v1/{path}"
        async with self.session.get(target, headers=headers) as reply:
            age = reply.headers.get("Age")
            self.figures.replies[fault, reply.status, age is not None] += 1
            if reply.status == 503:
                return
            seen = quantity_of(await reply.json()) if reply.status == 200 else 0
        least = self.least(url, "Change" in headers, began, age)
        if seen < least:
            text = f"{fault}: {target} {headers} Age {age}: {seen}, not {least}"
            self.figures.breaches.append(text)

    def least(self, url: str, has_change: bool, began: float, age: str | None) -> int:
        """Return the least quantity that a reply must show."""
        shown = [
            write.quantity
            for write in self.writes
            if write.at <= began
            and (
                age is None
                or has_change
                or write.url == url
                or write.at <= began - int(age)
            )
        ]
        return max(shown, default=1)


def quantity_of(body: dict[str, Any]) -> int:
    """Return the quantity in the reply to a row, a list or a sum of one purchase."""
    data = body["data"]
    row = data[0] if isinstance(data, list) else data
    return int(row["quantity"])


@contextmanager
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """Run a primary and its standby."""
    with cluster(FASTER) as primary, folders() as folder:
        standby = primary.new_standby(folder, "standby")
        try:
            yield primary, standby
        finally:
            standby.kill()


@asynccontextmanager
async def fault(
    name: str, primary: Cluster, standby: Cluster, figures: Figures
) -> AsyncIterator[None]:
    """Have a fault for the length of a with block."""
    begin, end = {  # of each, what does it and what undoes it
        "primary killed": (primary.kill, primary.start),
        "primary frozen": (primary.freeze, primary.thaw),
        "standby paused": (
            lambda: standby.sql("SELECT pg_wal_replay_pause()"),
            lambda: standby.sql("SELECT pg_wal_replay_resume()"),
        ),
        "standby killed": (standby.kill, standby.start),
    }[name]
    await asyncio.to_thread(begin)
    figures.fault = ", ".join(sorted({*figures.fault.split(", "), name} - {"none"}))
    yield
    figures.fault = "after"
    await asyncio.to_thread(end)


FAULTS = (
    ("primary killed",),
    ("primary frozen",),
    ("standby paused",),
    ("standby paused", "primary killed"),
    ("standby killed",),
)
"""Those of each turn, one after the other."""


GOES_ON = {"primary killed", "primary frozen"}
"""The faults in which the standby has all that was acknowledged, and reads go on."""
LEAST_SHARE = 0.8
"""Of the reads in such a fault; it takes two seconds until a frozen primary is noticed.
"""


def set_synchronous(primary: Cluster, is_synchronous: bool) -> None:
    """Have commits wait for the standby, or not."""
    if is_synchronous:
        primary.wait_for("standby")
    else:
        primary.change("synchronous_standby_names", "")


async def follow(
    primary: Cluster, standby: Cluster, urls: list[str], rounds: int
) -> Figures:
    """Let the clients write and read through all faults; return the figures."""
    figures, stop = Figures(), asyncio.Event()
    async with new_session() as session:
        clients = [Client(session, urls, figures) for _ in range(CLIENTS)]
        for client in clients:
            await client.begin()
        tasks = [asyncio.create_task(client.run(stop)) for client in clients]
        for names in FAULTS * rounds:
            figures.fault = "none"
            await asyncio.to_thread(set_synchronous, primary, names[0] in GOES_ON)
            await asyncio.sleep(REST_SECONDS)
            async with AsyncExitStack() as stack:
                for name in names:
                    one = fault(name, primary, standby, figures)
                    await stack.enter_async_context(one)
                    await asyncio.sleep(FAULT_SECONDS / len(names))
        await asyncio.sleep(REST_SECONDS)
        stop.set()
        await asyncio.gather(*tasks)
    figures.breaches += [text for name in GOES_ON if (text := figures.stops(name))]
    return figures


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with (
        pair() as (primary, standby),
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
    ):
        env = {"DATABASE_URL": primary.url, "READ_DATABASE_URL": standby.url}
        with serving(Path(one), env) as first, serving(Path(two), env) as second:
            urls = [first.url, second.url]
            figures = asyncio.run(follow(primary, standby, urls, options.rounds))
    rows: list[tuple[str, object]] = [("writes acknowledged", figures.writes)]
    for (name, status, has_age), count in sorted(figures.replies.items()):
        rows.append((f"{name}: {status}{', with an Age' * has_age}", count))
    print_table(("reads while servers fail", "seen"), rows)
    return print_breaches(figures.breaches)


if __name__ == "__main__":
    sys.exit(main())
