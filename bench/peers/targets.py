"""Start what is measured, each program with the same rows, and see that it answers."""

import json
import os
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.peers.programs import OURS, PROGRAMS, run
from bench.peers.rows import fill
from checks.support.server_process import Reply, Server, call, exchange, request_bytes

if TYPE_CHECKING:
    from checks.support.postgres_cluster import Cluster

LISTED, ADDED, EACH = 1000, 1000, 10
"""How many customers are listed, and added to; how many purchases the listed have."""
SHORT_LISTS = [EACH] * LISTED + [0] * ADDED
"""How many purchases each customer has."""
COUNT_ADDED = "SELECT count(*) FROM {} WHERE customer_id > {}"
INVALID: tuple[dict[str, object], ...] = (
    {"quantity": 4},
    {"purchase_name": "", "quantity": 4},
    {"purchase_name": "Green tea, 100 g", "quantity": 0},
    {"purchase_name": "Green tea, 100 g", "quantity": 4.5},
)
"""Bodies that every server must refuse. Beyond that they differ: Fastify, as it comes,
takes "4" for 4, and drops fields that it does not know."""
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """Where servers run: in folders of a folder, on some cores."""

    folder: Path
    cores: str


@dataclass
class Target:
    """A running server; its first customers are listed, those after them added to.

    `before` is how many purchases the latter had. `sql` asks its database, where that
    is not the SQLite file in its folder. `beside` serves the same database.
    """

    name: str
    server: Server
    listed: int = LISTED
    added: int = ADDED
    before: int = 0
    acknowledged: int = 0
    sql: Callable[[str], str] | None = None
    table: str = "purchases"
    beside: Server | None = None

    @property
    def servers(self) -> list[Server]:
        """Return its servers, which share the load."""
        return [self.server, *([self.beside] if self.beside else [])]

    def stored(self) -> int:
        """Return how many purchases were added to the customers that are added to."""
        query = COUNT_ADDED.format(self.table, self.listed)
        if self.sql:
            return int(self.sql(query)) - self.before
        with closing(sqlite3.connect(self.server.folder / "db.sqlite3")) as database:
            count: int = database.execute(query).fetchone()[0]
            return count - self.before


def start(
    stack: ExitStack,
    place: Place,
    name: str = OURS,
    purchases: Sequence[int] = (),
    constant: str = "",
    env: Mapping[str, str] = NOTHING,
) -> Server:
    """Start a server on its core, with so many purchases of each customer.

    What is in `env` goes before the program's settings.
    """
    program = PROGRAMS[name]
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place.folder))
    (folder / "limit.json").write_text(constant)
    command = ("taskset", "-c", place.cores, *program.command)
    server = Server(folder, program.env, command)
    stack.callback(server.stop, signal.SIGKILL)
    if purchases:
        launch(server)
        server.stop()
        fill(folder / "db.sqlite3", purchases)
        if url := env.get("DATABASE_URL"):
            run((*command, "copy", "sqlite:///db.sqlite3", url), folder)
    server.env |= env
    launch(server)
    return server


def start_cluster(stack: ExitStack, cores: str) -> "Cluster":
    """Start PostgreSQL on a disk; it waits for the disk with every commit."""
    # This import installs PostgreSQL where it is missing.
    from checks.support.postgres_cluster import Cluster

    name = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
    folder = Path(name)
    folder.chmod(0o711)  # PostgreSQL may run as another user
    cluster, own = Cluster(folder), os.sched_getaffinity(0)
    cluster.create()
    stack.callback(cluster.kill)
    os.sched_setaffinity(0, map(int, cores.split(",")))  # it inherits them
    cluster.start()
    os.sched_setaffinity(0, own)
    return cluster


def launch(server: Server, within: float = 20.0) -> None:
    """Start a process and wait until it answers. RuntimeError after so many seconds."""
    server.launch()
    end = time.monotonic() + within
    while not server.status_of("/"):
        if time.monotonic() > end or (server.process and server.process.poll()):
            raise RuntimeError(f"{server.command}: {server.errors()}")
        time.sleep(0.005)


QUIET_SECONDS, BUSY_SHARE = 2.0, 0.02
"""What it takes to be idle: so long with no more of a processor than this."""
WAIT_SECONDS = 3.0
"""How long a server may do nothing before it makes up for what it has put off."""


def wait_idle(server: Server, within: float = 600.0) -> None:
    """Wait until a server has filled in its indexes. RuntimeError."""
    time.sleep(WAIT_SECONDS)
    end = time.monotonic() + within
    while time.monotonic() < end:
        used = server.cpu_seconds()
        time.sleep(QUIET_SECONDS)
        if server.cpu_seconds() - used < BUSY_SHARE * QUIET_SECONDS:
            return
    raise RuntimeError("the server does not come to rest")


def path_of(customer_id: int) -> str:
    """Return the path of a customer's purchases."""
    return f"/api/v1/purchase/{customer_id}"


def answers(server: Server) -> dict[str, Reply]:
    """Return one reply to a list and one to an add."""
    purchase = {"purchase_name": "Green tea, 100 g", "quantity": 4}
    return {
        "list": call(server, "GET", path_of(LISTED)),
        "add": call(server, "POST", path_of(LISTED + 1), purchase),
    }


def shape(replies: Mapping[str, Reply]) -> object:
    """Return what the replies of two servers have in common."""
    body = replies["add"].json()
    data = body["data"] if isinstance(body, dict) and "data" in body else {}
    statuses = [reply.status for reply in replies.values()]
    return statuses, replies["list"].json(), [(key, type(data[key])) for key in data]


def constant_answers(replies: Mapping[str, Reply]) -> str:
    """Return our replies as JSON, but for the headers that aiohttp adds itself."""
    own = {"connection", "content-length", "date", "server"}
    found = {}
    for name, reply in replies.items():
        items = reply.headers.items()
        headers = [[key, value] for key, value in items if key.lower() not in own]
        body = reply.body.decode()
        found[name] = {"status": reply.status, "headers": headers, "body": body}
    return json.dumps(found)


def refuse_careless(name: str, server: Server) -> None:
    """Hold a server to its validation. SystemExit when it takes what is not valid."""
    seen = [call(server, "POST", path_of(LISTED + 1), body).status for body in INVALID]
    unknown = path_of(len(SHORT_LISTS) + 1)
    nobody = [
        call(server, "GET", unknown).status,
        call(server, "POST", unknown, {"purchase_name": "Tea", "quantity": 4}).status,
    ]
    if not {*seen} <= {400, 422} or nobody != [404, 404]:
        raise SystemExit(f"bench: {name} answers invalid requests {seen}, {nobody}")


def check_mix(server: Server) -> None:
    """See that what mix.lua sends is answered as it says. SystemExit when not."""
    page = call(server, "GET", "/api/v1/customer?limit=20&after=7").json()
    rows = page["data"] if isinstance(page, dict) and "data" in page else []
    tag = [("If-None-Match", '"1"')]
    request = request_bytes("GET", "/api/v1/customer/1", None, tag)
    known = exchange(server.port, request).status
    if (len(rows), known) != (20, 304):
        raise SystemExit(f"bench: the mix: {len(rows)} rows, {known} for a known tag")


def start_all(stack: ExitStack, place: Place, names: Iterable[str]) -> list[Target]:
    """Start our server and others. SystemExit when one answers anything else."""
    ours = start(stack, place, OURS, SHORT_LISTS)
    expected = answers(ours)
    targets = [Target(OURS, ours)]
    for name in names:
        constant = constant_answers(expected) if name == "limit" else ""
        rows = () if constant else SHORT_LISTS
        server = start(stack, place, name, rows, constant)
        compare(name, answers(server), expected)
        if not constant:
            refuse_careless(name, server)
        targets.append(Target(name, server))
    return targets


def compare(
    name: str, seen: Mapping[str, Reply], expected: Mapping[str, Reply]
) -> None:
    """Hold the replies of a server against ours. SystemExit when they differ."""
    if shape(seen) != shape(expected):
        raise SystemExit(f"bench: {name} answers {seen}, not {expected}")


def start_engines(stack: ExitStack, place: Place) -> list[Target]:
    """Start our server on SQLite and on PostgreSQL, with one worker and with two.

    And a second server beside the first on PostgreSQL.
    """
    cluster = start_cluster(stack, place.cores)
    targets = []
    for workers in ("1", "2"):
        title, env = f"WORKERS={workers}", {"WORKERS": workers}
        server = start(stack, place, OURS, SHORT_LISTS, env=env)
        targets.append(Target(f"SQLite, {title}", server))
        url = cluster.new_schema()
        table = f"{url.rpartition('=')[2]}.purchases"
        env |= {"DATABASE_URL": url}
        server = start(stack, place, OURS, SHORT_LISTS, env=env)
        name = f"PostgreSQL, {title}"
        targets.append(Target(name, server, sql=cluster.sql, table=table))
    first = targets[1]
    beside = start(
        stack, place, OURS, env={"DATABASE_URL": first.server.env["DATABASE_URL"]}
    )
    targets.append(
        Target(
            "PostgreSQL, two servers",
            first.server,
            sql=first.sql,
            table=first.table,
            beside=beside,
        )
    )
    expected = answers(targets[0].server)
    for target in targets[1:]:
        compare(target.name, answers(target.server), expected)
    return targets
