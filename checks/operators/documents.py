"""Parses each file of docs/ with the program that it is for."""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from xml.parsers import expat

from checks.operators.tools import (
    DOCS,
    NAME,
    BreachError,
    adapted,
    caddy,
    nginx_changes,
    run,
    tool,
)
from checks.support.server_process import PROJECT, free_port

INSTALLED = "/opt/customer-purchase-server"
EXPOSURE = 20
"""The highest exposure of a unit, in tenths, by `systemd-analyze security`."""


def parse_json(path: Path, folder: Path) -> None:
    """Parse JSON."""
    json.loads(path.read_text("utf-8"))


def parse_svg(path: Path, folder: Path) -> None:
    """Parse XML."""
    expat.ParserCreate().Parse(path.read_bytes(), True)


def parse_png(path: Path, folder: Path) -> None:
    """Look at both ends of a picture."""
    image = path.read_bytes()
    if not image.startswith(b"\x89PNG\r\n") or b"IEND" not in image[-12:]:
        raise BreachError("not a whole PNG")


def parse_markdown(path: Path, folder: Path) -> None:
    """Let the shell parse the commands, and follow the links to files."""
    text = path.read_text("utf-8")
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text):
        run("sh", "-n", text=block)
    for link in re.findall(r"\]\(([^):#]+)\)", text):
        if not (path.parent / link).exists():
            raise BreachError(f"no {link}")


def parse_unit(path: Path, folder: Path) -> None:
    """Let systemd read a unit beside the others, and rate the confinement of it."""
    systemd = tool("systemd-analyze")
    python = f"{INSTALLED}/venv/bin/python"
    litestream = tool("litestream") if "litestream" in path.read_text("utf-8") else ""
    for unit in (*DOCS.glob("*.service"), *DOCS.glob("*.timer")):
        text = unit.read_text("utf-8").replace(python, sys.executable)
        text = text.replace(INSTALLED, str(PROJECT))
        text = text.replace("/usr/bin/litestream", litestream or sys.executable)
        (folder / unit.name).write_text(text, "utf-8")
    run(systemd, "verify", "--man=no", folder / path.name)
    if path.suffix == ".service":
        limit = f"--threshold={EXPOSURE}"
        run(systemd, "security", "--offline=true", limit, folder / path.name)


def parse_nginx(path: Path, folder: Path) -> None:
    """Let nginx read its file as it is, and with the lines for TLS."""
    nginx, changes = tool("nginx"), nginx_changes(folder)
    port = {"listen 80": f"listen {free_port()}"}
    plain = adapted(path.name, folder, {**changes, **port})
    run(nginx, "-t", "-e", folder / "error.log", "-c", plain)
    pem, key = folder / "shop.pem", folder / "shop.key"
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    files = ("-nodes", "-subj", f"/CN={NAME}", "-out", pem, "-keyout", key)
    run(tool("openssl"), *request, *files)
    tls = {
        "listen 80": f"# listen {free_port()}",
        "# listen 443": f"listen {free_port()}",
        "# ssl_certificate": "ssl_certificate",
        f"/etc/ssl/{NAME}.pem": str(pem),
        f"/etc/ssl/private/{NAME}.key": str(key),
    }
    secured = adapted(path.name, folder, {**changes, **tls})
    run(nginx, "-t", "-e", folder / "error.log", "-c", secured)


def parse_caddy(path: Path, folder: Path) -> None:
    """Let Caddy read its file."""
    config = adapted(path.name, folder, {"/var/log/caddy": str(folder)})
    home = {"HOME": str(folder)}
    run(caddy(), "validate", "--adapter", "caddyfile", "--config", config, env=home)


def parse_haproxy(path: Path, folder: Path) -> None:
    """Let HAProxy read its file."""
    run(tool("haproxy"), "-c", "-f", path)


def parse_yaml(path: Path, folder: Path) -> None:
    """Parse YAML; a check of its own runs the file."""
    importlib.import_module("yaml").safe_load(path.read_text("utf-8"))


def parse_prometheus(path: Path, folder: Path) -> None:
    """Let Prometheus read its file."""
    run(tool("promtool"), "check", "config", path)


def parse_litestream(path: Path, folder: Path) -> None:
    """Let Litestream read its file, and the lines for S3 in place of the folder."""
    litestream, text = tool("litestream"), path.read_text("utf-8")
    list_databases(litestream, path, "file")
    replica = re.search(r"(?m)^    replica:\n(?:      .*\n)+", text)
    if replica is None:
        raise BreachError("no replica in a folder")
    s3 = folder / path.name
    lines = text.replace(replica[0], "")
    s3.write_text(re.sub(r"(?m)^    # (replica:|  )", r"    \1", lines), "utf-8")
    list_databases(litestream, s3, "s3")


def list_databases(litestream: str, config: Path, kind: str) -> None:
    """Let Litestream list the databases of a file. BreachError."""
    command = (litestream, "databases", "-config", config)
    listed = subprocess.run(command, capture_output=True, text=True)
    databases = listed.stdout.splitlines()[1:]
    if listed.returncode or [line.split()[-1] for line in databases] != [kind]:
        raise BreachError(f"not one replica, {kind}: {listed.stdout}{listed.stderr}")


def parse_compose(path: Path, folder: Path) -> None:
    """Let podman-compose read a file on top of that of the server."""
    compose, podman = tool("podman-compose"), folder / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    files = ("-f", PROJECT / "docker-compose.yml", "-f", path)
    run(compose, "--podman-path", podman, *files, "config")
    yaml = importlib.import_module("yaml")
    for service in yaml.safe_load(path.read_text("utf-8"))["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./docs/") and not (PROJECT / source).is_file():
                raise BreachError(f"no {source} from the folder of the first file")


PARSERS: dict[str, Callable[[Path, Path], None]] = {
    "*.json": parse_json,
    "*.svg": parse_svg,
    "*.png": parse_png,
    "*.md": parse_markdown,
    "*.service": parse_unit,
    "*.timer": parse_unit,
    "nginx.conf": parse_nginx,
    "Caddyfile": parse_caddy,
    "haproxy*.cfg": parse_haproxy,
    "patroni.yml": parse_yaml,
    "prometheus.yml": parse_prometheus,
    "litestream.yml": parse_litestream,
    "docker-compose*.yml": parse_compose,
}
"""How each file of docs/ is parsed."""


def parse_document(path: Path) -> None:
    """Parse a file of docs/. BreachError, MissingError."""
    for pattern, parse in PARSERS.items():
        if fnmatch(path.name, pattern):
            with tempfile.TemporaryDirectory() as name:
                return parse(path, Path(name))
    raise BreachError("checks/operators.py knows no parser for it")


def check_rotation() -> None:
    """Look for a limit of the log of every container. BreachError."""
    yaml = importlib.import_module("yaml")
    files = "docker-compose*.yml"
    for path in (*PROJECT.glob(files), *DOCS.glob(files)):
        for name, service in yaml.safe_load(path.read_text("utf-8"))[
            "services"
        ].items():
            options = service.get("logging", {}).get("options", {})
            if not {"max-size", "max-file"} <= options.keys():
                raise BreachError(f"{path.name}: the log of {name} grows for ever")
