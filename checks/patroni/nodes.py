"""Three machines with Patroni and PostgreSQL, etcd and HAProxy, on the loopback.

A machine's network is two HAProxies of its own: through one the others reach its
PostgreSQL and its Patroni, through the other its Patroni reaches etcd. Stopped, they
swallow all.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from checks.operators.tools import adapted, tool
from checks.support.postgres_cluster import ORDINARY_USER, Cluster, family, send
from checks.support.server_process import free_port
from checks.support.venvs import environment

PATRONI = ("patroni[etcd3]==4.1.4", "psycopg[binary]==3.3.9")
PASSWORDS = {"CHANGE-ME-1": "rest", "CHANGE-ME-2": "super", "CHANGE-ME-3": "copy"}
HEALTHY_SECONDS = 120.0
"""How long the machines may take until all three are what they should be."""
RUN_ITSELF = "import subprocess, sys; subprocess.check_call((sys.executable, '-V'))"
"""For Patroni starts PostgreSQL by another Python."""
PIPE = """
defaults
    mode tcp
    retries 0
    timeout connect 2s
    timeout client 1h
    timeout server 1h
"""
LISTEN = """
listen {name}
    bind 127.0.0.1:{outer}
    server {name} 127.0.0.1:{inner}
"""


class Times(NamedTuple):
    """Patroni's settings of these names, in seconds."""

    ttl: int
    loop_wait: int
    retry_timeout: int


def as_ordinary(python: Path) -> list[str]:
    """Return what makes a command an ordinary user's, one that can read Python."""
    if os.geteuid() != 0:
        return []
    import pwd

    user = pwd.getpwnam(ORDINARY_USER)
    plain = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
    plain.append("--clear-groups")
    trial = [*plain, str(python), "-c", RUN_ITSELF]
    if not subprocess.run(trial, capture_output=True).returncode:
        return plain
    reading = "+dac_read_search"
    return [*plain, f"--inh-caps={reading}", f"--ambient-caps={reading}"]


class Node:
    """A machine: its Patroni, its PostgreSQL, its network."""

    def __init__(self, folder: Path, number: int, etcd: int, times: Times) -> None:
        self.name = f"db{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        # of which Patroni starts and stops the server
        self.database = Cluster(self.folder, password=PASSWORDS["CHANGE-ME-2"])
        self.rest, self.outer_rest, self.outer_database, self.etcd_here = (
            free_port() for _ in range(4)
        )
        rest = ("rest", self.outer_rest, self.rest)
        database = ("database", self.outer_database, self.database.port)
        self.network = self._pipe("network", rest, database)
        self.way_to_etcd = self._pipe("etcd", ("etcd", self.etcd_here, etcd))
        self._configure(times)
        self.patroni: subprocess.Popen[bytes] | None = None

    def _pipe(self, name: str, *ports: tuple[str, int, int]) -> subprocess.Popen[bytes]:
        """Start an HAProxy that leads from ports to others."""
        file = self.folder / f"{name}.cfg"
        lines = (
            LISTEN.format(name=what, outer=outer, inner=inner)
            for what, outer, inner in ports
        )
        file.write_text(PIPE + "".join(lines))
        return start([tool("haproxy"), "-f", str(file)], file)

    def _configure(self, times: Times) -> None:
        """Write Patroni's file, as docs/ has it but for this machine."""
        changes = {
            "name: db1": f"name: {self.name}",
            "0.0.0.0:8008": f"127.0.0.1:{self.rest}",
            "10.0.0.11:8008": f"127.0.0.1:{self.outer_rest}",
            "0.0.0.0:5432": f"127.0.0.1:{self.database.port}",
            "10.0.0.11:5432": f"127.0.0.1:{self.outer_database}",
            # or it would ask etcd for addresses, and pass the network by
            "hosts: 10.0.0.21:2379,10.0.0.22:2379,10.0.0.23:2379": "use_proxies: true\n"
            f"  hosts: 127.0.0.1:{self.etcd_here}",
            "/var/lib/postgresql/17/shop": str(self.database.data),
            "/usr/lib/postgresql/17/bin": str(self.database.tools),
            "max_connections: 100": "max_connections: 100\n"
            '        unix_socket_directories: ""\n        shared_buffers: 32MB',
            "mode: required": "mode: 'off'",
            "ttl: 30": f"ttl: {times.ttl}",
            "loop_wait: 10": f"loop_wait: {times.loop_wait}",
            "retry_timeout: 10": f"retry_timeout: {times.retry_timeout}",
            **PASSWORDS,
        }
        self.config = adapted("patroni.yml", self.folder, changes)
        self.config.chmod(0o644)

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        python = environment("patroni", *PATRONI) / "python"
        command = [*as_ordinary(python), str(python), "-m", "patroni", self.config]
        self.patroni = start(command, self.folder / "patroni", home=self.folder)

    def kill_patroni(self) -> None:
        """Kill Patroni alone: PostgreSQL goes on."""
        if self.patroni is not None:
            self.patroni.kill()
            self.patroni.wait()

    def kill(self) -> None:
        """Kill all, as a machine does that loses its power."""
        self.kill_patroni()
        send(signal.SIGSTOP, self._postgres()[:1])  # so that it starts no more
        send(signal.SIGKILL, self._postgres())

    def freeze(self, how: int = signal.SIGSTOP) -> None:
        """Stop all its processes, as a machine whose disk or hypervisor hangs."""
        assert self.patroni is not None
        send(how, [*family(self.patroni.pid), *self._postgres()])

    def thaw(self) -> None:
        """Let the processes go on."""
        self.freeze(signal.SIGCONT)

    def cut_off(self) -> None:
        """Let nothing come in or go out."""
        self.network.send_signal(signal.SIGSTOP)
        self.lose_etcd()

    def lose_etcd(self) -> None:
        """Let Patroni no longer reach etcd; all else goes on."""
        self.way_to_etcd.send_signal(signal.SIGSTOP)

    def connect(self) -> None:
        """Let everything through again."""
        for pipe in (self.network, self.way_to_etcd):
            pipe.send_signal(signal.SIGCONT)

    def _postgres(self) -> list[int]:
        """Return the first process of PostgreSQL and its children, if it runs."""
        try:
            first = (self.database.data / "postmaster.pid").read_text().split()[0]
        except (OSError, IndexError):
            return []
        name = Path(f"/proc/{first}/cmdline")
        if not name.exists() or str(self.database.data) not in name.read_text():
            return []
        return family(int(first))

    def end(self) -> None:
        """Kill all that runs."""
        self.thaw()
        self.kill()
        for pipe in (self.network, self.way_to_etcd):
            pipe.kill()
            pipe.wait()


def start(
    command: list[Any], name: Path, home: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process with a log of a name."""
    env = {**os.environ, "HOME": str(home or name.parent)}
    with name.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=home, env=env)


def wait_decided(url: str) -> None:
    """Wait until etcd, asked for its versions, has one of its cluster. RuntimeError.

    Patroni ends where it reads "not_decided", which etcd says in its first moments
    (etcd, api/version: `Cluster`).
    """
    end = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
            if json.load(reply)["etcdcluster"] != "not_decided":
                return
        time.sleep(0.1)
    raise RuntimeError(f"etcd is not ready: {url}")


class Group:
    """The three machines, etcd, and HAProxy before them."""

    def __init__(self, folder: Path, times: Times) -> None:
        self.folder = folder
        port, peers = free_port(), free_port()
        here = f"http://127.0.0.1:{port}"
        etcd = [tool("etcd"), "--data-dir", str(folder / "etcd")]
        etcd += ["--listen-client-urls", here, "--advertise-client-urls", here]
        for option in ("--listen-peer-urls", "--initial-advertise-peer-urls"):
            etcd += [option, f"http://127.0.0.1:{peers}"]
        etcd += ["--initial-cluster", f"default=http://127.0.0.1:{peers}"]
        self.processes = [start(etcd, folder / "etcd-server")]
        self.nodes = [Node(folder, number, port, times) for number in (1, 2, 3)]
        self.balanced = free_port()
        changes = {"bind :5432": f"bind 127.0.0.1:{self.balanced}"}
        for number, node in enumerate(self.nodes, 1):
            line = f"server db{number} 10.0.0.1{number}:5432 port 8008"
            changes[line] = (
                f"server db{number} 127.0.0.1:{node.outer_database} "
                f"addr 127.0.0.1 port {node.outer_rest}"
            )
        config = adapted("haproxy-patroni.cfg", folder, changes)
        self.processes.append(
            start([tool("haproxy"), "-f", str(config)], folder / "balancer")
        )
        wait_decided(f"{here}/version")
        for node in self.nodes:
            node.start()

    @property
    def urls(self) -> dict[str, str]:
        """Return the URL of the database by each way."""
        hosts = ",".join(f"127.0.0.1:{node.outer_database}" for node in self.nodes)
        user = f"postgresql://postgres:{PASSWORDS['CHANGE-ME-2']}"
        return {
            "hosts": f"{user}@{hosts}/postgres",
            "HAProxy": f"{user}@127.0.0.1:{self.balanced}/postgres",
        }

    async def ask(
        self, node: Node, path: str, body: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Ask a Patroni; return the status and the JSON, 0 when it says nothing."""
        password = aiohttp.BasicAuth("patroni", PASSWORDS["CHANGE-ME-1"])
        limit = aiohttp.ClientTimeout(total=60 if body is not None else 2)
        method = "GET" if body is None else "POST"
        url = f"http://127.0.0.1:{node.rest}{path}"
        async with aiohttp.ClientSession(timeout=limit, auth=password) as session:
            try:
                async with session.request(method, url, json=body) as reply:
                    parsed = "json" in reply.headers.get("Content-Type", "")
                    body_read = reply.json() if parsed else reply.text()
                    return reply.status, await body_read
            except (aiohttp.ClientError, TimeoutError, OSError):
                return 0, None

    async def leader(self, but: Node | None = None) -> Node:
        """Return who leads, once one does. RuntimeError."""
        end = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < end:
            for node in self.nodes:
                if node is not but and (await self.ask(node, "/primary"))[0] == 200:
                    return node
            await asyncio.sleep(0.2)
        raise RuntimeError(f"no leader\n{self.logs()}")

    async def wait_healthy(self) -> Node:
        """Return who leads, once the others follow. RuntimeError."""
        end = time.monotonic() + HEALTHY_SECONDS
        members: list[Any] = []
        while time.monotonic() < end:
            leader = await self.leader()
            _, found = await self.ask(leader, "/cluster")
            members = found["members"] if found else []
            seen = sorted((one["role"], one["state"]) for one in members)
            if seen == HEALTHY:
                return leader
            await asyncio.sleep(0.5)
        raise RuntimeError(f"not healthy: {members}\n{self.logs()}")

    def logs(self) -> str:
        """Return the ends of what Patroni and PostgreSQL wrote."""
        files = (node.folder / "patroni.log" for node in self.nodes)
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in files)

    def end(self) -> None:
        """Kill all that runs."""
        for node in self.nodes:
            if node.patroni is not None:
                node.end()
        for process in self.processes:
            process.kill()
            process.wait()


HEALTHY = [
    ("leader", "running"),
    ("replica", "streaming"),
    ("sync_standby", "streaming"),
]
