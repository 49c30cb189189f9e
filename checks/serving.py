"""Start, watch and stop a real server process, for the checks and for test.py."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One `python server.py` process with its working folder, port and log files."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, str(PROJECT / "server.py")),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, "PORT": str(self.port), **(env or {})}
        self.command = list(command)
        self.out = folder / "server.out"
        self.err = folder / "server.err"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id. RuntimeError when it was never started."""
        if self.process is None:
            raise RuntimeError("the server was not started")
        return self.process.pid

    def start(self, ready_within: float = 10.0) -> "Server":
        """Start the process and wait until `/readyz` answers 200; seconds."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.env, stdout=out, stderr=err
            )
        self.wait_ready(ready_within)
        return self

    def wait_ready(self, within: float = 10.0) -> float:
        """Return the seconds until `/readyz` answered 200. RuntimeError after `within`."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"exit {self.process.returncode}: {self.errors()}")
            if self.status_of("/readyz") == 200:
                return time.monotonic() - began
            time.sleep(0.005)
        raise RuntimeError(f"not ready within {within} s: {self.errors()}")

    def status_of(self, path: str, timeout: float = 5.0) -> int:
        """Return the status of a GET, 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def errors(self) -> str:
        """Return the end of what the process wrote to stderr."""
        return self.err.read_text(errors="replace")[-4000:] if self.err.exists() else ""

    def stop(self, how: int = signal.SIGTERM, within: float = 15.0) -> int:
        """Send a signal and return the exit status; killed when it takes too long."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def serving(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server for the length of a with block."""
    server = Server(folder, env)
    try:
        yield server.start()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGKILL)
