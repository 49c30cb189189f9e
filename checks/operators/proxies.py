"""Runs each proxy of docs/ before a real server."""

import os
import re
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from checks.operators.tools import (
    NAME,
    BreachError,
    adapted,
    caddy,
    nginx_changes,
    tool,
)
from checks.slow.load import fill
from checks.support.server_process import (
    Reply,
    Server,
    exchange,
    free_port,
    request_bytes,
)

CURL_PARTIAL_FILE = 18


def start_nginx(server: int, port: int, folder: Path) -> list[str]:
    """Return the command of nginx before a server. MissingError."""
    changes = {
        **nginx_changes(folder),
        "listen 80": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8080": f"127.0.0.1:{server}",
    }
    config = adapted("nginx.conf", folder, changes)
    options = ["-e", f"{folder}/error.log", "-g", "daemon off;"]
    return [tool("nginx"), "-c", str(config), *options]


def start_caddy(server: int, port: int, folder: Path) -> list[str]:
    """Return the command of Caddy before a server. MissingError."""
    changes = {
        f"\n{NAME} {{": f"{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}}\n"
        f"http://{NAME}:{port} {{",
        "127.0.0.1:8080": f"127.0.0.1:{server}",
        "/var/log/caddy": str(folder),
    }
    config = adapted("Caddyfile", folder, changes)
    return [caddy(), "run", "--adapter", "caddyfile", "--config", str(config)]


def start_haproxy(server: int, port: int, folder: Path) -> list[str]:
    """Return the command of HAProxy before a server. MissingError."""
    changes = {
        "bind :8080": f"bind 127.0.0.1:{port}",
        "server server1 server1:8080": f"server server1 127.0.0.1:{server}",
        "server server2 server2:8080": "",
    }
    config = adapted("haproxy.cfg", folder, changes)
    return [tool("haproxy"), "-db", "-f", str(config)]


PROXIES = {"nginx": start_nginx, "Caddy": start_caddy, "HAProxy": start_haproxy}

RESTARTING = {"nginx": {502}, "Caddy": {200}, "HAProxy": {200, 503}}
"""The answers while the only server restarts; Caddy's comes when it has, and HAProxy
tries again for a moment."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs before a server."""

    server: Server
    port: int
    folder: Path

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
    ) -> Reply:
        """Send a request under the name of the shop."""
        fields = {"Host": f"{NAME}:{self.port}", "Accept-Encoding": "gzip", **headers}
        request = request_bytes(method, path, body, fields.items())
        return exchange(self.port, request, method)

    def wait_for(self, status: int, path: str = "/readyz") -> None:
        """Wait until a request is answered with a status. BreachError."""
        seen = 0
        for _ in range(100):
            try:
                seen = self.ask(path).status
            except OSError:  # it does not listen yet
                seen = 0
            if seen == status:
                return
            time.sleep(0.1)
        raise BreachError(f"{path}: {seen}, not {status}")

    def log(self) -> str:
        """Return what it wrote about its clients."""
        file = self.folder / "shop.log"
        return (file if file.exists() else self.folder / "out").read_text("utf-8")


@contextmanager
def proxied(name: str, server: Server) -> Iterator[Proxy]:
    """Run a proxy before a server. MissingError."""
    folder, port = server.folder / name, free_port()
    folder.mkdir(mode=0o755)
    command = PROXIES[name](server.port, port, folder)
    env = {**os.environ, "HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        yield Proxy(server, port, folder)
    finally:
        process.terminate()
        process.wait(20)


def expect(held: bool, what: str, reply: Reply | str) -> None:
    """Raise BreachError unless something held."""
    if held:
        return
    if isinstance(reply, Reply):
        head = "; ".join(f"{name}: {text}" for name, text in reply.headers.items())
        reply = f"{reply.status} {head} {reply.body[:300]!r}"
    raise BreachError(f"{what}: {reply[-1500:]}")


def check_restart(proxy: Proxy, statuses: set[int]) -> None:
    """Ask for a row while the server restarts. BreachError."""
    proxy.server.stop()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(proxy.ask, "/api/v1/customer/1")
        time.sleep(0.5)
        proxy.server.start()
        reply = asked.result()
    expect(reply.status in statuses, f"not {statuses}", reply)
    proxy.wait_for(200, "/api/v1/customer/1")


def check_tags(proxy: Proxy) -> None:
    """Read and change rows for a client that takes gzip. BreachError."""
    row, rows = proxy.ask("/api/v1/customer/3"), proxy.ask("/api/v1/purchase/2")
    tag = row.headers.get("ETag", "")
    request = request_bytes("GET", "/api/v1/purchase/2", headers=[("Host", NAME)])
    direct = exchange(proxy.server.port, request)
    for reply in (row, rows):
        expect("Content-Encoding" not in reply.headers, "compressed", reply)
    expect(row.status == 200 and re.fullmatch('"[0-9]+"', tag) is not None, "tag", row)
    expect(rows.whole and rows.body == direct.body, "another list", rows)
    for status in (200, 412):
        change = b'{"address": "elsewhere"}'
        reply = proxy.ask("/api/v1/customer/3", "PATCH", change, {"If-Match": tag})
        expect(reply.status == status, f"If-Match, not {status}", reply)


def check_logs(proxy: Proxy) -> None:
    """Follow the id of a request through both logs. BreachError."""
    ours = {"X-Request-Id": f"travels-{proxy.port}"}
    reply = proxy.ask("/api/v1/customers?name=secret", headers=ours)
    for log in (proxy.server.log, proxy.log):
        for _ in range(50):
            if ours["X-Request-Id"] in log():
                break
            time.sleep(0.1)
        expect(ours["X-Request-Id"] in log(), "the id is not logged", reply)
    expect(reply.headers["X-Request-Id"] == ours["X-Request-Id"], "another id", reply)
    expect("127.0.0.1" in proxy.log(), "no address of a client", proxy.log())
    expect("secret" not in proxy.log(), "the query is logged", proxy.log())


def check_problems(proxy: Proxy) -> None:
    """Send what is refused; all refusals look alike. BreachError."""
    large = proxy.ask("/api/v1/customer", "POST", b" " * 300_000)
    expect(large.status == 413 and not large.problem_faults(), "too large", large)
    old = request_bytes("GET", "/api/v1/customers").replace(b"HTTP/1.1", b"HTTP/1.0")
    host = f"Host: {NAME}:{proxy.port}".encode()
    reply = exchange(proxy.port, old.replace(b"Host: 127.0.0.1", host))
    kind = reply.headers.get_content_type()
    expect(reply.status == 426 and kind == "application/problem+json", "1.0", reply)


def check_cut(proxy: Proxy) -> None:
    """Kill the server while curl reads a list: curl must report it. BreachError."""
    got = proxy.folder / "list"
    options = ("-sS", "--limit-rate", "8M", "--output", str(got))
    host = ("-H", f"Host: {NAME}:{proxy.port}")
    url = f"http://127.0.0.1:{proxy.port}/api/v1/purchase/1"
    command = [tool("curl"), *options, *host, url]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as curl:
        while curl.poll() is None and not (got.exists() and got.stat().st_size):
            time.sleep(0.01)
        proxy.server.stop(signal.SIGKILL)
        curl.wait(60)
    end = got.read_bytes()[-3:]
    expect(end != b"]}\n" and end[1:] != b"]}", "the list was whole", "no test")
    seen = f"curl ended with {curl.returncode}"
    expect(curl.returncode == CURL_PARTIAL_FILE, "a cut list looks whole", seen)
    gone = proxy.ask("/api/v1/customer/1")
    kind = gone.headers.get_content_type()
    expect(gone.status in (502, 503), "without a server", gone)
    expect(kind == "application/problem+json", "without a server", gone)


def check_proxy(name: str) -> None:
    """Try a proxy before a server. BreachError, MissingError."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # nginx's workers are another user
        server = Server(Path(folder))
        server.start().stop()
        fill(server.folder / "db.sqlite3")
        with closing(sqlite3.connect(server.folder / "db.sqlite3")) as file:
            # Far longer than what the buffers of all sockets hold together.
            file.execute(
                "UPDATE purchases SET purchase_name = ?", ("\U0001f600" * 200,)
            )
            file.commit()
        try:
            with proxied(name, server.start()) as proxy:
                proxy.wait_for(200)
                proxy.wait_for(421, "/api/v1/customer/1")
                server.env["ALLOWED_HOSTS"] = NAME
                check_restart(proxy, RESTARTING[name])
                for check in (check_tags, check_logs, check_problems, check_cut):
                    check(proxy)
        finally:
            server.stop(signal.SIGKILL)
