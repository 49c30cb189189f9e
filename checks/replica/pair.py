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
SETUP = "Continuous, by Litestream"
RESTORE = "To restore from the replica"
"""The sections of docs/backups.md."""
CONFIG = "/etc/customer-purchase-server-litestream.yml"
REPLICA = "/var/lib/customer-purchase-server-replica"
DATA = "/var/lib/customer-purchase-server"


def program() -> str | None:
    """Return the path of Litestream, None where it is not installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(PROGRAM, path=path)


def commands(heading: str) -> str:
    """Return the commands of a section of docs/backups.md for a service. BreachError.

    That is all but what is for containers, and what sets the service up.
    """
    _, _, rest = (DOCS / "backups.md").read_text("utf-8").partition(f"## {heading}\n")
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", rest.partition("\n## ")[0])
    others = ("docker compose", "systemctl")
    steps = [
        textwrap.dedent(one) for one in blocks if not any(x in one for x in others)
    ]
    if not any(f"{PROGRAM} restore" in step for step in steps):
        raise BreachError(f"docs/backups.md does not restore under {heading}")
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

    def newest(self) -> str:
        """Return the name of the last file of changes in the replica."""
        files = self.replica.glob("ltx/0/*.ltx")
        return max((path.name for path in files), default="")

    def wait_for_copy(self, last: str, within: float = 30.0) -> float:
        """Wait until the replica has more than `last`; return how many seconds.

        BreachError after some seconds. Litestream begins with a whole copy.
        """
        began = time.monotonic()
        while self.newest() <= last:
            if time.monotonic() - began > within:
                raise BreachError(f"no replica: {self.log.read_text()[-1500:]}")
            time.sleep(0.02)
        return time.monotonic() - began

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
        steps = commands(RESTORE)
        if moment:
            steps = steps.replace("restore ", f"restore -timestamp {moment} ")
        self.run_commands(steps)
        if self.database.stat().st_mode & 0o077:
            raise BreachError(f"others may read {self.database.name}")

    def look(self) -> None:
        """Look whether it can be restored, as docs/backups.md does. BreachError."""
        self.run_commands(f"cd {self.data.parent}\n{commands(SETUP)}")

    def run_commands(self, text: str) -> None:
        """Run commands with the folders of this pair. BreachError."""
        path = f"{Path(program() or PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"
        places = {CONFIG: self.config, DATA: self.data}
        run("sh", "-ec", placed(text, places), env={"PATH": path})
