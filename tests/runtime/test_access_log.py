"""The access log."""

import asyncio
import json
import logging
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


@one_engine
async def test_text_for_people(
    opened: Opener, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line shows the path as it came, and no query; probes that succeed have none."""
    api = await opened(access_log=True, log_format="text")
    for path in ("/livez", "/readyz", "/metrics"):
        await api(f"GET {path}")
    await api("PUT /livez", None, 405)
    await api("GET /api/v1/customers?name=marker")
    await api("GET /nope", None, 404)
    await api.raw(b"GET /%ff%1b HTTP/1.1\r\nHost: a\r\n\r\n", 404)
    await api.raw(b"BAD\r\n\r\n", 400)
    out = ""
    end = time.monotonic() + 10
    while out.count("\n") < 5 and time.monotonic() < end:
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    assert out.splitlines() == [
        Like(r"PUT /livez 405 \d+ ms"),
        Like(r"GET /api/v1/customers 200 \d+ ms"),
        Like(r"GET /nope 404 \d+ ms"),
        Like(r"GET /%ff%1b 404 \d+ ms"),
        Like(r"_OTHER - 400 \d+ ms"),
    ]


def test_format_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It is text; elsewhere JSON, unless a setting says else."""
    assert access_log.format_for(sys.stdout, "auto") == "json"
    assert access_log.format_for(sys.stdout, "text") == "text"
    terminal, other = os.openpty()
    with os.fdopen(other, "w") as stream:
        assert access_log.format_for(stream, "auto") == "text"
        assert access_log.format_for(stream, "json") == "json"
    os.close(terminal)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_error_log(capfd: pytest.CaptureFixture[str], log_format: str) -> None:
    """A record is one line of JSON, or the message, the id and the traceback."""
    handler = access_log.LogHandler(log_format)
    log = logging.Logger("server")
    log.addHandler(handler)
    log.info("serving %s", "a")
    try:
        raise ValueError("marker")
    except ValueError as exc:
        log.error("unknown fault", exc_info=exc, extra={"request_id": "mine"})
    said = capfd.readouterr().err
    if log_format == "text":
        start = (
            "serving a\nerror: unknown fault [mine]\nTraceback (most recent call last)"
        )
        assert said.startswith(start)
        assert said.endswith("ValueError: marker\n")
    else:
        lines = [json.loads(line) for line in said.splitlines()]
        assert [line["message"] for line in lines] == ["serving a", "unknown fault"]
        assert lines[1]["id"] == "mine"
        assert lines[1]["traceback"].endswith("ValueError: marker\n")


@pytest.mark.parametrize("threaded", [False, True])
def test_stream_that_nobody_reads(threaded: bool) -> None:
    """Writing to it waits for nobody, and what it does not take is counted."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        lines = access_log.LineWriter(lambda: stream)
        if threaded:
            lines.start()
        began = time.monotonic()
        for _ in range(2000):
            lines.write(b"x" * 99 + b"\n")
        assert time.monotonic() - began < 5
        assert lines.dropped > 100
        if threaded:  # the thread is stuck: it must be let go
            os.set_blocking(reader, False)
            while lines._thread is not None:
                with suppress(BlockingIOError):
                    os.read(reader, 1 << 20)
                lines.close()
        os.close(reader)


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
        log.writer.start()
        for _ in range(3):
            metrics.record_request((0.0, "id", "GET", "/", 200, 0.1, "", "/"))
            metrics.flush()
        metrics.close()
        monkeypatch.undo()
        with suppress(OSError):
            out.close()
    assert log.writer.dropped == 3
    assert b"access_log_lines_dropped_total 3.0" in metrics.text()


def test_lines_of_workers_stay_whole() -> None:
    """One write takes whole lines, and no more than a pipe takes in one piece."""
    log = AccessLog(enabled=True).writer
    requests = [(0.0, f"id-{n}", "GET", "/", 200, 0.1, "", "/") for n in range(200)]
    lines = access_log.format_lines(requests)
    assert log._part(lines) == lines
    log.whole_lines = True
    written = b""
    while part := log._part(lines[len(written) :]):
        assert part.endswith(b"\n")
        assert len(part) <= select.PIPE_BUF
        written += part
    assert written == lines
