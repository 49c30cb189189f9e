"""Run behind pgbouncer in transaction mode, and look for errors and for what is lost.

    python -m checks.pooler [--long]

First the tests of the contract, through one pgbouncer. Then two servers on
one pgbouncer of five sessions, and beside them a client that leaves these sessions as
it should not: 2,000 writes (with --long 10,000), no answer of which may be 5xx. Then
pgbouncer is killed and started again, and PostgreSQL stopped and started, under load.
The servers are never started again. In the end the database is held against the
clients' write log. PGBOUNCER names another pgbouncer than the one that is installed.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from checks.failover.__main__ import judge_servers
from checks.failover.pair import Load
from checks.failover.rows import export, judge_rows
from checks.operators.tools import MissingError
from checks.pooler.bouncer import Bouncer, program
from checks.pooler.careless import ROLE, leave_sessions
from checks.pooler.refusals import CASES, miss_standby, try_case
from checks.support.postgres_cluster import NO_FSYNC, Cluster, cluster
from checks.support.report import Figures
from checks.support.server_process import PROJECT, Server, serving
from checks.support.write_log import Outcome, new_session

TESTS = ("test.py", "tests/storage/test_reports.py")
FEW, MANY = 2_000, 10_000
SECONDS = 2.0
"""How long there is load after each fault."""
BEFORE_SECONDS = 1.0
"""How long sessions are spoilt before the servers start."""
AWAY_SECONDS = 2.0
FAULTS = ("pgbouncer", "PostgreSQL")
QUICK = {"server_login_retry": "1"}
"""How long pgbouncer waits until it tries a server again."""


def run_tests(main: Cluster, figures: Figures) -> None:
    """Run the tests of the contract through pgbouncer."""
    main.sql("CREATE DATABASE contract")
    bouncer = Bouncer(main).start()
    url = bouncer.through(main.url.removesuffix("postgres") + "contract")
    command = (sys.executable, "-m", "pytest", "-q", f"--database-url={url}")
    options = ("-p", "no:cacheprovider", "-k", "not sqlite")
    try:
        done = subprocess.run(
            [*command, *options, *TESTS], cwd=PROJECT, capture_output=True, text=True
        )
    finally:
        bouncer.stop()
    last = done.stdout.strip().rpartition("\n")[2]
    figures.judge("tests through it", "all pass", last, done.returncode == 0)
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-1000:])


def judge_starts(main: Cluster, folder: Path, figures: Figures) -> None:
    """See that a start which cannot work says so in one line."""
    bouncer = Bouncer(main, {"pool_mode": "statement"}).start()
    try:
        url = bouncer.through(main.url)
        server = Server(folder, {"DATABASE_URL": url})
        server.launch()
        status, said = server.refused()
    finally:
        bouncer.stop()
    right = status == 1 and said.count("\n") == 1 and "session mode" in said
    figures.judge("start in statement mode", "refused", f"exit {status}", right)


async def refuse(main: Cluster, figures: Figures) -> None:
    """Let pgbouncer refuse what it can refuse."""
    await asyncio.gather(*(try_case(what, main, figures) for what in CASES))
    await miss_standby(main, figures)
    main.sql("TRUNCATE customer, purchases, history, idempotency RESTART IDENTITY")


def judge_writes(load: Load, figures: Figures, faulty: bool) -> None:
    """Look at the statuses so far."""
    known = {200, 201, 503} if faulty else {200, 201}
    what = "writes, with faults" if faulty else "writes beside a careless client"
    figures.judge_statuses(what, known, load.log.statuses())
    longest = max(one.ended - one.began for one in load.log.sent)
    figures.judge(f"{what}: longest answer", "-", f"{longest:.2f} s", True)


async def fail(what: str, main: Cluster, bouncer: Bouncer, load: Load) -> float:
    """Take pgbouncer or the server away, give it back; return seconds until a write."""
    one = bouncer if what == "pgbouncer" else main
    await asyncio.to_thread(one.stop)
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(one.start)
    back = time.monotonic()
    await load.until_acknowledged(back)
    resumed = time.monotonic() - back
    await asyncio.sleep(SECONDS)
    return resumed


async def write(
    main: Cluster,
    bouncer: Bouncer,
    servers: list[Server],
    writes: int,
    figures: Figures,
) -> Load:
    """Write through the servers, with faults in the end; return what was sent."""
    async with new_session() as session:
        load = Load(session, servers, SECONDS)
        while load.log.outcomes()[Outcome.ACKNOWLEDGED] < writes:
            if load.log.statuses().keys() - {200, 201}:
                break
            await asyncio.sleep(0.05)
        judge_writes(load, figures, faulty=False)
        for fault in FAULTS:
            seconds = await fail(fault, main, bouncer, load)
            what = f"{fault} away for {AWAY_SECONDS:.0f} s: writes again"
            figures.judge(what, "-", f"{seconds:.2f} s", True)
        await load.finish()
    judge_writes(load, figures, faulty=True)
    seen = {answer.status for answer in load.seen}
    figures.judge("reads and /readyz", "200, 503", sorted(seen), seen <= {200, 503})
    return load


def start(main: Cluster, stack: ExitStack, url: str) -> list[Server]:
    """Start two servers on one database."""
    places = [main.folder / "one", main.folder / "two"]
    for place in places:
        place.mkdir()
    options = {"DATABASE_URL": url}
    return [stack.enter_context(serving(place, options)) for place in places]


async def run(main: Cluster, writes: int, figures: Figures) -> None:
    """Write beside a careless client, and hold the rows against the write log."""
    main.sql(f"CREATE ROLE {ROLE}")
    stop = asyncio.Event()
    with ExitStack() as stack:
        bouncer = Bouncer(main, QUICK).start()
        stack.callback(bouncer.stop)
        url = bouncer.through(main.url)
        careless = asyncio.create_task(leave_sessions(url, stop))
        await asyncio.sleep(BEFORE_SECONDS)
        servers = await asyncio.to_thread(start, main, stack, url)
        pids = [server.pid for server in servers]
        load = await write(main, bouncer, servers, writes, figures)
        stop.set()
        left = await careless
        figures.judge("left in sessions", "> 100", f"{left:,}", left > 100)
        file = main.folder / "rows.sqlite3"
        await export(main.url, file)
        repeated = sum(client.repeated for client in load.clients)
        judge_rows(load.log, repeated, file, figures)
        judge_servers(servers, pids, figures)


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help=f"{MANY:,} writes")
    options = parser.parse_args()
    try:
        version = subprocess.run([program(), "--version"], capture_output=True)
    except MissingError as exc:
        sys.stdout.write(f"left out: {exc}\n")
        return 0
    name = version.stdout.decode().partition("\n")[0]
    figures = Figures()
    with cluster(NO_FSYNC) as server:
        run_tests(server, figures)
        judge_starts(server, server.folder, figures)
        asyncio.run(refuse(server, figures))
        asyncio.run(run(server, MANY if options.long else FEW, figures))
    return figures.finish(f"{name}, transaction mode")


if __name__ == "__main__":
    sys.exit(main())
