"""Start, watch and stop a real server process, for the checks and for test.py."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ANSWERED = re.compile(
    r'_count\{http_request_method="(\w+)",'
    r'http_response_status_code="2\d\d",http_route="([^"]+)"'
)
"""A line of /metrics on requests that were answered 2xx."""
VISITOR = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("SELECT count(*) FROM customer").fetchall()
file.close()
"""


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
        self.launch()
        self.wait_ready(ready_within)
        return self

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.env,
                stdout=out,
                stderr=err,
                process_group=0,
            )

    def wait_ready(self, within: float = 10.0) -> float:
        """Return the seconds until `/readyz` was 200. RuntimeError after `within`."""
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

    def log(self) -> str:
        """Return all that the process wrote to stdout and stderr."""
        files = (file for file in (self.out, self.err) if file.exists())
        return "".join(file.read_text(errors="replace") for file in files)

    def refused(self, within: float = 10.0) -> tuple[int, str]:
        """Start a process that is to end by itself; return exit status and stderr.

        subprocess.TimeoutExpired when it goes on.
        """
        ended = subprocess.run(
            self.command,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            timeout=within,
        )
        return ended.returncode, ended.stderr.decode(errors="replace")

    def descriptors(self) -> int:
        """Return how many file descriptors the process holds (Linux)."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def last_descriptor(self) -> int:
        """Return the highest file descriptor that the process holds (Linux)."""
        return max(int(file.name) for file in Path(f"/proc/{self.pid}/fd").iterdir())

    def memory(self, entry: str = "VmRSS") -> float:
        """Return a size of the process in MiB, by its name in /proc/PID/status."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {entry}")

    def processes(self) -> dict[int, list[str]]:
        """Return the fields of /proc/PID/stat from the third on, of its processes."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # a process that has just ended
                fields = stat.read_text().rpartition(") ")[2].split()
                if int(fields[2]) == self.pid:  # its process group
                    found[int(stat.parent.name)] = fields
        return found

    def cpu_seconds(self) -> float:
        """Return what its processes have used of the processors (proc_pid_stat(5))."""
        used = [fields[11:13] for fields in self.processes().values()]
        ticks = sum(int(user) + int(system) for user, system in used)
        return ticks / os.sysconf("SC_CLK_TCK")

    def reset_peak(self) -> None:
        """Let `memory("VmHWM")` begin anew (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stop(self, how: int = signal.SIGTERM, within: float = 15.0) -> int:
        """Send a signal and return the exit status; killed when it takes too long.

        SIGKILL goes to its workers too, as when a machine or a container ends.
        """
        if self.process is None:
            return 0
        if self.process.poll() is None:
            deliver = os.killpg if how == signal.SIGKILL else os.kill
            deliver(self.pid, how)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            raise


@contextmanager
def serving(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server for the length of a with block."""
    server = Server(folder, env)
    try:
        yield server.start()
    finally:
        server.stop(signal.SIGKILL)


@dataclass(frozen=True)
class Reply:
    """What came back for one request; status 0 when nothing did."""

    status: int
    headers: Message = field(default_factory=Message)
    body: bytes = b""
    whole: bool = False
    seconds: float = 0.0

    def json(self) -> object:
        """Return the decoded body, None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def problem_faults(self) -> list[str]:
        """Return what keeps the reply from being a problem of the contract."""
        body = self.json()
        if self.headers.get_content_type() != "application/problem+json":
            return [f"Content-Type {self.headers.get('Content-Type')}"]
        if not isinstance(body, dict):
            return ["the body is not a JSON object"]
        faults = [
            f"no text in {name}"
            for name in ("type", "title", "detail", "request_id")
            if not isinstance(body.get(name), str) or not body[name]
        ]
        if body.get("status") != self.status:
            faults.append(f"status {body.get('status')} in the body")
        if body.get("request_id") != self.headers.get("X-Request-Id"):
            faults.append(f"X-Request-Id {self.headers.get('X-Request-Id')}")
        if self.headers.get("X-Content-Type-Options") != "nosniff":
            faults.append("no X-Content-Type-Options: nosniff")
        if self.status == 422 and not self.pointers():
            faults.append("422 without errors of pointer and detail")
        if self.status == 503 and "Retry-After" not in self.headers:
            faults.append("503 without Retry-After")
        if self.status == 405 and "Allow" not in self.headers:
            faults.append("405 without Allow")
        return faults

    def pointers(self) -> set[str]:
        """Return the places that a 422 names."""
        body = self.json()
        errors = body.get("errors") if isinstance(body, dict) else None
        if not isinstance(errors, list):
            return set()
        return {
            error["pointer"]
            for error in errors
            if isinstance(error, dict) and {"pointer", "detail"} <= error.keys()
        }


def read_reply(peer: socket.socket, method: str = "GET") -> Reply:
    """Read one reply to its end, or to the end of what comes."""
    began = time.monotonic()
    response = http.client.HTTPResponse(peer, method=method)
    try:
        response.begin()
    except (OSError, http.client.HTTPException):
        return Reply(0, seconds=time.monotonic() - began)
    whole = True
    try:
        body = response.read()
    except http.client.IncompleteRead as exc:
        whole, body = False, exc.partial
    except (OSError, http.client.HTTPException):
        whole, body = False, b""
    seconds = time.monotonic() - began
    return Reply(response.status, response.headers, body, whole, seconds)


def exchange(
    port: int,
    request: bytes | Iterable[bytes],
    method: str = "GET",
    hang_up: bool = False,
    timeout: float = 20.0,
) -> Reply:
    """Send raw bytes on a new connection and return the reply.

    With `hang_up` the sending side is closed after them (FIN). An endless request is
    given up as soon as there is a reply.
    """
    pieces = [request] if isinstance(request, bytes) else request
    with socket.create_connection(("127.0.0.1", port), timeout) as peer:
        sender = threading.Thread(target=send, args=(peer, pieces, hang_up))
        sender.start()
        reply = read_reply(peer, method)
        with suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)
        sender.join(timeout)
        return reply


def send(peer: socket.socket, pieces: Iterable[bytes], hang_up: bool) -> None:
    """Send bytes while the peer takes them."""
    with suppress(OSError):
        for piece in pieces:
            peer.sendall(piece)
        if hang_up:
            peer.shutdown(socket.SHUT_WR)


def request_bytes(
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return a well-formed HTTP/1.1 request, its body as JSON unless it says else."""
    fields = {"Host": "127.0.0.1", "Connection": "close"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= dict(headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + (body or b"")


def call(server: Server, method: str, path: str, value: object = None) -> Reply:
    """Send one proper request, with a JSON body unless that is None."""
    body = None if value is None else json.dumps(value).encode()
    return exchange(server.port, request_bytes(method, path, body), method)


def answered_routes(server: Server, token: str | None) -> set[tuple[str, str]]:
    """Return the methods and paths of the routes that have answered 2xx."""
    headers = [("Authorization", f"Bearer {token}")] if token else []
    request = request_bytes("GET", "/metrics", None, headers)
    return {*ANSWERED.findall(exchange(server.port, request).body.decode())}


def visitor_of(database: Path) -> tuple[str, ...]:
    """Return the command of a program that looks into a database and takes its leave.

    It would remove the WAL of a database on which nobody else has a lock.
    """
    return (sys.executable, "-c", VISITOR, str(database))
