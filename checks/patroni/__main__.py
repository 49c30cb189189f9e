"""Let the leader of three PostgreSQL servers under Patroni fail, under load.

    python -m checks.patroni [--long] [--fault killed] [--ttl 20]

Patroni, etcd and HAProxy run as docs/patroni.yml and docs/haproxy-patroni.cfg have
them. Two servers are there at once: one knows the three hosts, the other one HAProxy.
Clients write through both all the time, and repeat what was not acknowledged under its
Idempotency-Key. In the end the database is held against their write log.
"""

import argparse
import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from checks.failover.__main__ import judge_logs
from checks.failover.pair import ANSWER_SECONDS, until_acknowledged
from checks.failover.rows import export, judge_rows
from checks.operators.tools import MissingError, tool
from checks.patroni.faults import FAULTS, LONG, SHORT
from checks.patroni.load import Way, joined, new_folder
from checks.patroni.nodes import PATRONI, Group, Times
from checks.support.postgres_cluster import folders
from checks.support.report import Figures
from checks.support.server_process import serving
from checks.support.venvs import environment
from checks.support.write_log import new_session

SLACK_SECONDS = 10.0
"""How much longer than ttl writes may stand still."""
STEADY_SECONDS = 4.0
"""How long there is no fault before one and after one."""
READY_SECONDS = 5.0
"""The longest that an answer of `/readyz` may take."""
LONG_WRITES = 50_000
"""How many writes the long form has to see acknowledged."""


async def try_fault(
    group: Group, name: str, ways: list[Way], limit: float
) -> tuple[float, float]:
    """Let the leader fail and recover; return when that began and ended.

    RuntimeError when the machines do not recover.
    """
    fault = FAULTS[name]
    leader = await group.wait_healthy()
    await asyncio.sleep(STEADY_SECONDS)
    began = time.monotonic()
    await fault.begin(group, leader)
    if fault.end is not None:
        await group.leader(but=leader)
        await asyncio.sleep(STEADY_SECONDS)  # until the promotion is over
    since = time.monotonic()
    for way in ways:
        await until_acknowledged(way.log, since, limit)
    await asyncio.sleep(STEADY_SECONDS)
    if fault.end is not None:
        fault.end(leader)
    await group.wait_healthy()
    await asyncio.sleep(STEADY_SECONDS)
    return began, time.monotonic()


def judge_fault(
    name: str, ways: list[Way], began: float, ended: float, limit: float, to: Figures
) -> None:
    """Look at how long writes stood still, and what `/readyz` said meanwhile."""
    for way in ways:
        what = f"{name}, by {way.name}"
        gap = way.longest_gap(began, ended)
        to.judge(
            f"{what}: longest gap", f"≤ {limit:.0f} s", f"{gap:.1f} s", gap <= limit
        )
        ready, away = way.wrongly_ready(began, ended), way.wrongly_away(began, ended)
        asked = way.asked(began, ended)
        text = f"{len(ready)} and {len(away)} of {len(asked)}"
        right = not ready and not away
        to.judge(f"{what}: wrongly ready, wrongly not", "0 and 0", text, right)
        for kind, times in (("200", ready), ("503", away)):
            seconds = [f"{one - began:.1f}" for one in times[:8]]
            if seconds:
                to.breaches.append(f"{what}: {kind} after {', '.join(seconds)} s")


def judge_answers(ways: list[Way], to: Figures) -> None:
    """Look at what was answered, and how soon."""
    for way in ways:
        known, statuses = {200, 201, 503}, way.log.statuses()
        to.judge_statuses(f"writes by {way.name}", known, statuses)
    for what, most, answers in (
        ("write", ANSWER_SECONDS, [one for way in ways for one in way.log.sent]),
        ("/readyz", READY_SECONDS, [one for way in ways for one in way.seen]),
    ):
        longest = max(answer.ended - answer.began for answer in answers)
        text = f"{longest:.1f} s"
        to.judge(f"longest answer, {what}", f"≤ {most:.0f} s", text, longest <= most)


async def judge_rows_of(group: Group, ways: list[Way], to: Figures) -> None:
    """Hold the database against the write log of all clients."""
    leader = await group.wait_healthy()
    file = group.folder / "rows.sqlite3"
    await export(leader.database.url, file)
    log = joined([way.log for way in ways])
    repeated = sum(client.repeated for way in ways for client in way.clients)
    judge_rows(log, repeated, file, to)


async def run(folder: Path, faults: tuple[str, ...], times: Times) -> Figures:
    """Run all faults and return the figures."""
    figures = Figures()
    limit = times.ttl + SLACK_SECONDS
    with ExitStack() as stack:
        group = Group(folder, times)
        stack.callback(group.end)
        await group.wait_healthy()
        servers = [
            serving(new_folder(folder, name), {"DATABASE_URL": url})
            for name, url in group.urls.items()
        ]
        async with new_session() as session:
            ways = [
                Way(name, stack.enter_context(server), session)
                for name, server in zip(group.urls, servers, strict=True)
            ]
            for name in faults:
                began, ended = await try_fault(group, name, ways, limit)
                judge_fault(name, ways, began, ended, limit, figures)
                print(f"{name}: {ended - began:.0f} s", file=sys.stderr)
            for way in ways:
                await way.finish()
        judge_answers(ways, figures)
        await judge_rows_of(group, ways, figures)
        judge_logs([way.server for way in ways], figures)
    if faults == LONG:
        acknowledged = sum(len(way.acknowledged()) for way in ways)
        enough = acknowledged >= LONG_WRITES
        text = f"{acknowledged:,}"
        figures.judge("acknowledged in all", f"≥ {LONG_WRITES:,}", text, enough)
    return figures


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="ten faults")
    parser.add_argument("--fault", choices=[*FAULTS], action="append")
    parser.add_argument("--ttl", type=int, default=20, help="seconds; 20 at least")
    options = parser.parse_args()
    times = Times(options.ttl, options.ttl // 4, options.ttl // 4)
    faults = tuple(options.fault or (LONG if options.long else SHORT))
    try:
        for program in ("etcd", "haproxy"):
            tool(program)
    except MissingError as exc:
        print(f"left out: {exc} (apt-get install etcd-server haproxy)")
        return 0
    environment("patroni", *PATRONI)
    with folders() as folder:
        figures = asyncio.run(run(folder, faults, times))
    return figures.finish("three servers under Patroni")


if __name__ == "__main__":
    sys.exit(main())
