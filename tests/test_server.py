"""Start, serving and stop."""

import json
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.support.server_process import Server, exchange, request_bytes, serving
from storage import sqlite_connection
from tests.support import JOHN, Main, digest, visiting


def test_serving(main: Main, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It serves, reads its tokens again on SIGHUP, and stops on SIGTERM."""
    caplog.set_level(logging.INFO)
    ours = Server(tmp_path)
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('first')} write\n")

    def status_with(token: str) -> int:
        headers = [("Authorization", f"Bearer {token}")]
        line = request_bytes("GET", "/api/v1/customer", headers=headers)
        return exchange(ours.port, line).status

    def reload(text: str, message: str) -> None:
        file.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        end = time.monotonic() + 10
        while message not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)

    def visit() -> None:
        ours.wait_ready()
        assert (status_with("first"), status_with("second")) == (200, 401)
        reload(f"bob {digest('second')} read\n", "1 tokens read")
        assert (status_with("first"), status_with("second")) == (401, 200)
        reload("nonsense\n", "tokens kept as they were")
        assert (status_with("first"), status_with("second")) == (401, 200)

    with visiting(visit) as faults:
        status, out, _ = main("--port", str(ours.port), API_TOKENS_FILE=str(file))
    assert (status, faults) == (0, [])
    start = f"serving http://127.0.0.1:{ours.port} on sqlite:///db.sqlite3, SQLite 3."
    assert start in caplog.text
    assert "first" not in caplog.text + out
    assert (tmp_path / "db.sqlite3").exists()


def test_sighup_without_tokens(main: Main, tmp_path: Path) -> None:
    ours = Server(tmp_path)

    def visit() -> None:
        ours.wait_ready()
        os.kill(os.getpid(), signal.SIGHUP)
        assert ours.status_of("/readyz") == 200

    with visiting(visit) as faults:
        status, out, _ = main(
            *("--access-log", "0", "--allow-anonymous"),
            PORT=str(ours.port),
            HOST="localhost",
            LOG_LEVEL="INFO",
        )
    assert (status, out, faults) == (0, "", [])


def test_old_sqlite(
    main: Main,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It serves, with one warning."""
    monkeypatch.setattr(sqlite_connection, "WAL_RESET_FIXED", False)
    ours = Server(tmp_path)

    def visit() -> None:
        ours.wait_ready()

    with visiting(visit) as faults:
        status, _, _ = main("--port", str(ours.port))
    assert (status, faults) == (0, [])
    warnings = [line for line in caplog.records if line.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "walresetbug" in warnings[0].getMessage()


def test_port_in_use(main: Main) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = main("--port", str(taken.getsockname()[1]))
    assert status == 1
    assert re.fullmatch(r"server\.py: .*in use.*\n", err), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_what_was_begun(tmp_path: Path, number: int) -> None:
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    with serving(tmp_path) as ours:

        def slowly() -> Iterator[bytes]:
            yield request[:-9]
            time.sleep(0.3)
            assert ours.process is not None
            ours.process.send_signal(number)
            time.sleep(0.3)
            yield request[-9:]

        reply = exchange(ours.port, slowly())
        assert (reply.status, reply.whole) == (201, True), ours.log()
        assert ours.stop(number) == 0, ours.log()
        with pytest.raises(ConnectionRefusedError):
            exchange(ours.port, request)
    messages = [json.loads(line) for line in ours.err.read_text().splitlines()]
    told = [line["message"].split()[0] for line in messages if line["level"] == "info"]
    assert told == ["serving", "stopping"]
    lines = [json.loads(line) for line in ours.out.read_text().splitlines()]
    assert lines[-1]["status"] == 201, lines
    assert not (tmp_path / "db.sqlite3-wal").exists(), "not checkpointed"
