"""A server with Litestream beside it, as docs/ says but for folders."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from checks.operators.backups import placed
from checks.operators.tools import DOCS, BreachError, adapted, run
from checks.support.server_process import Server

PROGRAM = "litestream"
HEADING = "## To restore from the replica\n"
CONFIG = "/etc/customer-purchase-server-litestream.yml"
REPLICA = "/var/lib/customer-purchase-server-replica"
DATA = "/var/lib/customer-purchase-server"


def program() -> str | None:
    """Return the path of Litestream, None where it is not installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(PROGRAM, path=path)


def restore_steps() -> str:
    """Return the commands of docs/backups.md that restore a service's database.

    All of the section but what is for containers. BreachError.
    """
    _, found, rest = (DOCS / "backups.md").read_text("utf-8").partition(HEADING)
    section = rest.partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", section)
    steps = [textwrap.dedent(block) for block in blocks if "docker" not in block]
    if not found or not any(f"{PROGRAM} restore" in step for step in steps):
        raise BreachError(f"docs/backups.md has no commands under {HEADING}")
    return "".join(steps)


class Pair:
    """A server and a Litestream on one database, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self.database = self.data / "db.sqlite3"
        self.replica = folder / "replica"
        self.log = folder / "litestream.log"
        places = {REPLICA: str(self.replica), f"{DATA}/": f"{self.data}/"}
        self.config = adapted("litestream.yml", folder, places)
        self.server = Server(self.data)
        self.litestream: subprocess.Popen[bytes] | None = None

    def start_litestream(self) -> None:
        """Start Litestream, and wait for nothing."""
        command = (program() or PROGRAM, "replicate", "-config", self.config)
        with self.log.open("ab") as log:
            self.litestream = subprocess.Popen(command, stdout=log, stderr=log)

    def files(self) -> int:
        """Return how many files of changes the replica has."""
        return sum(1 for _ in self.replica.rglob("*.ltx"))

    def wait_for_replica(self, within: float = 20.0) -> None:
        """Wait until the replica has a first copy. BreachError after some seconds."""
        began = time.monotonic()
        while not self.files():
            if time.monotonic() - began > within:
                raise BreachError(f"no replica: {self.log.read_text()[-1500:]}")
            time.sleep(0.05)

    def kill(self) -> float:
        """Kill both; return when, on the monotonic clock."""
        killed = time.monotonic()
        if self.litestream is not None:
            self.litestream.kill()
        self.server.stop(signal.SIGKILL)
        if self.litestream is not None:
            self.litestream.wait()
        return killed

    def lose_database(self) -> None:
        """Delete the database and all files beside it; the logs stay."""
        for path in self.data.glob("*db.sqlite3*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore(self, moment: str = "") -> None:
        """Restore, by the commands of docs/backups.md. BreachError."""
        steps = restore_steps()
        if moment:
            steps = steps.replace("restore ", f"restore -timestamp {moment} ")
        places = {CONFIG: self.config, DATA: self.data}
        path = f"{Path(program() or PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"
        run("sh", "-ec", placed(steps, places), env={"PATH": path})
        if self.database.stat().st_mode & 0o077:
            raise BreachError(f"others may read {self.database.name}")
