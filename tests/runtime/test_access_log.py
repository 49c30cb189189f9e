"""The access log."""

import asyncio
import json
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from runtime import access_log
from runtime.access_log import AccessLog
from runtime.metrics import Metrics
from tests.support import Like, Opener, one_engine


@one_engine
async def test_access_log(opened: Opener, capfd: pytest.CaptureFixture[str]) -> None:
    api = await opened(access_log=True)
    secret = {"name": "marker", "address": "marker"}
    await api("POST /api/v1/customer", secret, 201, X_Request_Id="a")
    await api("GET /api/v1/customers?name=marker", X_Request_Id="b")
    await api("GET /marker", None, 404, X_Request_Id="c", Authorization="Bearer marker")
    out = ""
    end = time.monotonic() + 10
    while out.count("\n") < 3 and time.monotonic() < end:
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    assert "marker" not in out
    lines = [json.loads(line) for line in out.splitlines()]
    whole = {"time": Like(r"\d{4}-\d\d-\d\dT.*Z"), "caller": ""}
    expected = [
        ("a", "POST", "/api/v1/customer", 201),
        ("b", "GET", "/api/v1/customers", 200),
        ("c", "GET", "unmatched", 404),
    ]
    for line, values in zip(lines, expected, strict=True):
        assert 0 <= line.pop("duration") < 10
        names = ("id", "method", "route", "status")
        assert line == whole | dict(zip(names, values, strict=True))


async def test_stdout_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are dropped and counted; serving goes on."""
    monkeypatch.setattr(access_log, "MAX_BATCHES", 1)
    log = AccessLog(enabled=True)
    metrics = Metrics("1", log)
    with (tmp_path / "read-only").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        os.close(out.fileno())
        log.start()
        for _ in range(3):
            metrics.record_request((0.0, "id", "GET", "/", 200, 0.1, ""))
            metrics.flush()
        metrics.close()
        monkeypatch.undo()
        with suppress(OSError):
            out.close()
    assert log.dropped == 3
    assert b"access_log_lines_dropped_total 3.0" in metrics.text()


def test_lines_of_workers_stay_whole() -> None:
    """One write takes whole lines, and no more than a pipe takes in one piece."""
    log = AccessLog(enabled=True)
    requests = [(0.0, f"id-{n}", "GET", "/", 200, 0.1, "") for n in range(200)]
    lines = access_log.format_lines(requests)
    assert log._part(lines) == lines
    log.whole_lines = True
    written = b""
    while part := log._part(lines[len(written) :]):
        assert part.endswith(b"\n")
        assert len(part) <= select.PIPE_BUF
        written += part
    assert written == lines
