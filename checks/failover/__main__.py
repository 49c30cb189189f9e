"""Kill a PostgreSQL primary under load, promote its standby, and look for what is lost.

    python -m checks.failover [--rounds 1] [--fault kill|freeze] [--seconds 4]

A primary and a synchronous standby, and two servers on both of them by one URL.
Clients write through the servers all the time, and repeat what was not acknowledged
under its Idempotency-Key. Each round the primary fails, the standby is promoted, and
a new standby takes the place of the one that failed. Then the primary is stopped for
ten seconds while there is no standby. The servers are never started again. In the end
the database is held against the clients' write log.
"""

import argparse
import asyncio
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from checks.failover.pair import (
    ANSWER_SECONDS,
    RESUME_SECONDS,
    Load,
    Pair,
    Seen,
    fail_over,
    stop_for_a_while,
)
from checks.failover.rows import export, judge_rows
from checks.support.postgres_cluster import folders
from checks.support.report import Figures
from checks.support.server_process import Server, serving
from checks.support.write_log import new_session


def judge_answers(load: Load, figures: Figures) -> None:
    """Look at what was answered, and when."""
    stopped, started = load.outage
    sent = load.log.sent
    answers = [Seen("writes", one.began, one.ended, one.status) for one in sent]
    answers += load.seen
    during: dict[str, Counter[int]] = {}
    for answer in answers:
        if stopped < answer.began and answer.ended < started:
            during.setdefault(answer.what, Counter())[answer.status] += 1
    for what, statuses in sorted(during.items()):
        seen = ", ".join(f"{count} of {status}" for status, count in statuses.items())
        figures.judge(f"stopped: {what}", "503 alone", seen, {*statuses} == {503})
    figures.judge_statuses("all writes", {200, 201, 503}, load.log.statuses())
    longest = max(answer.ended - answer.began for answer in answers)
    right = longest <= ANSWER_SECONDS
    most = f"≤ {ANSWER_SECONDS:.0f} s"
    figures.judge("longest answer", most, f"{longest:.2f} s", right)


def judge_servers(servers: list[Server], pids: list[int], figures: Figures) -> None:
    """See that the servers are the same processes still, and had no unknown fault."""
    same = sum(
        server.pid == pid and server.status_of("/readyz") == 200
        for server, pid in zip(servers, pids, strict=True)
    )
    right = same == len(servers)
    figures.judge("the same servers, ready", len(servers), same, right)
    judge_logs(servers, figures)


def judge_logs(servers: list[Server], figures: Figures) -> None:
    """See that no server had an unknown fault."""
    faults = sum("traceback" in server.errors() for server in servers)
    figures.judge("servers with a traceback in the log", 0, faults, not faults)


async def run(folder: Path, rounds: int, fault: str, seconds: float) -> Figures:
    """Run all rounds and return the figures."""
    figures = Figures()
    pair = await asyncio.to_thread(Pair, folder)
    with ExitStack() as stack:
        stack.callback(pair.end)
        places = [folder / "one", folder / "two"]
        for place in places:
            place.mkdir()
        servers = [
            stack.enter_context(serving(place, {"DATABASE_URL": pair.url}))
            for place in places
        ]
        pids = [server.pid for server in servers]
        async with new_session() as session:
            load = Load(session, servers, seconds)
            for number in range(rounds):
                if number:
                    await asyncio.to_thread(pair.renew)
                await fail_over(pair, fault, load, figures)
            await stop_for_a_while(pair, load, figures)
            await load.finish()
        judge_answers(load, figures)
        await export(pair.primary.url, folder / "rows.sqlite3")
        repeated = sum(client.repeated for client in load.clients)
        judge_rows(load.log, repeated, folder / "rows.sqlite3", figures)
        judge_servers(servers, pids, figures)
    return figures


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fault", choices=[*RESUME_SECONDS], default="kill")
    parser.add_argument("--seconds", type=float, default=4.0, help="load of a round")
    options = parser.parse_args()
    with folders() as folder:
        figures = asyncio.run(
            run(folder, options.rounds, options.fault, options.seconds)
        )
    return figures.finish("primary fails, standby promoted")


if __name__ == "__main__":
    sys.exit(main())
