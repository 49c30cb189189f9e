"""Start, serving and stop."""

import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import handlers
from checks.support.server_process import Server, exchange, request_bytes, serving
from storage import sqlite_connection
from tests.support import JOHN, Main, digest, several_processes, visiting, wait_until


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
    assert re.fullmatch(r"server\.py: HOST 127\.0\.0\.1, PORT \d+: .*in use\n", err), (
        err
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, f"{handlers.VERSION}\n"),
        (["token"], 2, "server.py: usage: token NAME [--read]\n"),
        (
            ["backup", "a", "b"],
            2,
            "server.py: usage: backup DEST [--replace | --keep N]\n",
        ),
        (["verify"], 2, "server.py: usage: verify FILE\n"),
        (["verify", "a", "b"], 2, "server.py: usage: verify FILE\n"),
        (["backup", "a", "--keep", "0"], 2, "server.py: argument --keep: '0' is not a"),
        (["backup", "a", "--keep", "-1"], 2, "server.py: argument --keep: "),
        (
            ["backup", "a", "--keep", "1", "--replace"],
            2,
            "server.py: --keep never replaces a copy: leave --replace out\n",
        ),
        (["restore", "a"], 2, "server.py: not a command: restore a (backup DEST [-"),
        (
            ["--host", "nope.invalid", "--allow-anonymous"],
            2,
            "server.py: HOST: 'nope.invalid' is no address or name of one\n",
        ),
    ],
)
def test_command_line(main: Main, arguments: list[str], status: int, said: str) -> None:
    ended, out, err = main(*arguments)
    assert ended == status
    assert (out + err).startswith(said)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a signal mask")
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=several_processes)])
def test_sighup_at_any_moment(tmp_path: Path, workers: str) -> None:
    """A signal that comes before the server is ready is acted on when it is."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {digest('a')} read\n")
    settings = {"API_TOKENS_FILE": str(tokens), "WORKERS": workers}
    ours = Server(tmp_path, settings)
    ours.launch()
    try:
        assert wait_until(lambda: blocks_sighup(ours.pid), 10)  # long before it serves
        os.kill(ours.pid, signal.SIGHUP)
        ours.wait_ready()
        assert wait_until(lambda: "1 tokens read" in ours.log(), 10), ours.log()
    finally:
        assert ours.stop() == 0, ours.log()


def blocks_sighup(pid: int) -> bool:
    """Return whether a process keeps SIGHUP for later (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"SigBlk:\t(\w+)", status)
    return bool(int(masks[0], 16) & 1 << signal.SIGHUP - 1)


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
