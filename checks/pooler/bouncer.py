"""Start, restart and kill a real pgbouncer before a PostgreSQL server."""

import os
import signal
import subprocess
import time

from checks.operators.tools import tool
from checks.support.postgres_cluster import START_SECONDS, Cluster, ordinary
from checks.support.server_process import exchange, free_port

SETTINGS = {
    "pool_mode": "transaction",
    "default_pool_size": "5",
    "server_round_robin": "1",  # so that each transaction has another session
    "max_client_conn": "500",
    "auth_type": "scram-sha-256",
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
}


def program() -> str:
    """Return the path of pgbouncer, of PGBOUNCER if that is set. MissingError."""
    return os.environ.get("PGBOUNCER") or tool("pgbouncer")


class Bouncer:
    """A pgbouncer with its folder and port, before one PostgreSQL server."""

    def __init__(
        self, cluster: Cluster, settings: dict[str, str] | None = None
    ) -> None:
        self.cluster = cluster
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.folder = cluster.folder / f"bouncer{self.port}"
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._configure({**SETTINGS, **(settings or {})})

    def _configure(self, settings: dict[str, str]) -> None:
        users = self.folder / "users"
        users.write_text(f'"postgres" "{self.cluster.password}"\n')
        settings |= {"listen_port": str(self.port), "auth_file": str(users)}
        lines = [f"{name} = {value}" for name, value in settings.items()]
        host, _, port = self.cluster.host.partition(":")
        databases = f"[databases]\n* = host={host} port={port}\n"
        file = self.folder / "pgbouncer.ini"
        file.write_text("\n".join([databases, "[pgbouncer]", *lines, ""]))

    def through(self, url: str) -> str:
        """Return the URL of a database of the server, by way of this pooler."""
        return url.replace(self.cluster.host, self.host)

    def start(self) -> "Bouncer":
        """Start it and wait until it listens. RuntimeError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program(), self.folder / "pgbouncer.ini"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **ordinary(),
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                exchange(self.port, b"", hang_up=True)
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError(f"pgbouncer did not start: {self.log.read_text()[-2000:]}")

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End it, with all connections through it."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START_SECONDS)
            self.process = None
