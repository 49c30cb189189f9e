"""Worker processes and their supervisor."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checks.support.server_process import exchange, request_bytes, serving
from runtime import workers
from storage import sqlite_connection
from tests.support import JOHN, Main, digest, post, several_processes, wait_until


@several_processes
def test_workers(tmp_path: Path) -> None:
    """Two processes share the port, the database and the metrics; both stop."""
    counted = r'(?m)^http_.*_count\{.*"POST".*"201".*\} (\S+)$'
    sent: list[str] = []
    with serving(tmp_path, {"WORKERS": "2"}) as ours:

        def both_have_answered() -> bool:
            reply = exchange(ours.port, post("/api/v1/customer", JOHN))
            assert reply.status == 201
            sent.append(reply.headers["X-Request-Id"])
            return len({number.partition("-")[0] for number in sent}) == 2

        def all_are_counted() -> bool:
            reply = exchange(ours.port, request_bytes("GET", "/metrics"))
            return re.findall(counted, reply.body.decode()) == [f"{len(sent)}.0"]

        assert wait_until(both_have_answered)
        assert wait_until(all_are_counted)
        assert ours.stop() == 0, ours.log()
    lines = [json.loads(line) for line in ours.out.read_text().splitlines()]
    posts = [line["id"] for line in lines if line["method"] == "POST"]
    assert sorted(posts) == sorted(sent)


@several_processes
def test_worker_that_dies(tmp_path: Path) -> None:
    """Another takes its place, and knows the tokens of now, not those of the start."""
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('old')} read\n")

    def statuses(token: str) -> list[int]:
        headers = [("Authorization", f"Bearer {token}")]
        line = request_bytes("GET", "/api/v1/customer", headers=headers)
        return [exchange(ours.port, line).status for _ in range(6)]

    def children() -> set[int]:
        found = Path(f"/proc/{ours.pid}/task/{ours.pid}/children").read_text().split()
        return set(map(int, found))

    environment = {"WORKERS": "2", "API_TOKENS_FILE": str(file)}
    with serving(tmp_path, environment) as ours:
        before = children()
        assert len(before) == 2
        file.write_text(f"bob {digest('new')} read\n")
        os.kill(ours.pid, signal.SIGHUP)
        assert wait_until(lambda: statuses("old") == [401] * 6)
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        assert wait_until(lambda: len(children() - before) == 2)
        ours.wait_ready()
        assert (statuses("old"), statuses("new")) == ([401] * 6, [200] * 6)
        assert ours.stop() == 0, ours.log()


@pytest.mark.parametrize(
    ("end", "status"),
    [("kill(15)", 0), ("kill(9)", 1), ("_exit(3)", 1), ("_exit(0)", 0)],
)
def test_how_workers_end(end: str, status: int) -> None:
    """A stop is clean also where a signal came to all, and twice to some."""
    call = end.replace("kill(", "kill(os.getpid(), ")
    command = [sys.executable, "-c", f"import os; os.{call}"]
    ended = subprocess.Popen(command)  # noqa: S603 - a program of the test's own
    supervisor = workers.Supervisor(1, lambda: None)
    supervisor.running = {ended.pid: 0}
    supervisor.stopping = True

    def is_reaped() -> bool:
        supervisor._reap()
        return not supervisor.running

    assert wait_until(is_reaped)
    assert supervisor.status == status
    ended.wait()


def test_workers_refused(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes would damage the file with an old SQLite."""
    monkeypatch.setattr(sqlite_connection, "WAL_RESET_FIXED", False)
    status, out, err = main("--workers", "2")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "WORKERS must be 1" in err
