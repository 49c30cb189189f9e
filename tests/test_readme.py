"""The examples of the README, word for word."""

import argparse
import http.client
import re
import shlex
from contextlib import closing
from pathlib import Path

from yarl import URL

from checks.support.server_process import serving
from tests.support import LONG, PROJECT, SHORT

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


class Curl(argparse.ArgumentParser):
    """Reads the options of curl that the README uses."""

    def __init__(self) -> None:
        super().__init__(prog="curl", add_help=False)
        self.add_argument("-s", action="store_true")
        self.add_argument("-i", action="store_true")
        self.add_argument("-X", default=None)
        self.add_argument("-H", action="append", default=[])
        self.add_argument("-d", "--data-binary", dest="d", default=None)
        self.add_argument("url")


def readme_examples() -> list[tuple[str, str]]:
    """Return the curl lines of the README, each with the reply that it shows.

    In place of the name of a file stands what the README shows of it.
    """
    text = (PROJECT / "README.md").read_text("utf-8")
    examples, file = [], ""
    for block in re.findall(r"(?ms)^```console\n(.*?)^```", text):
        for part in re.split(r"(?m)^\$ ", block.replace("\\\n", ""))[1:]:
            command, _, reply = part.partition("\n")
            if command.startswith("cat "):
                file = reply
            elif command.startswith("sed "):
                _, wrong, right, _ = command.split("'")[1].split("|")
                file = file.replace(wrong, right)
            elif command.startswith("curl "):
                command = command.replace("@old.csv", shlex.quote(file))
                examples.append((command, reply))
    return examples


def send(port: int, command: str) -> str:
    """Do what a curl line does; return what it prints."""
    options = Curl().parse_args(shlex.split(command)[1:])
    url = URL(options.url if "://" in options.url else f"http://{options.url}")
    headers = dict(re.split(r":\s*", line, maxsplit=1) for line in options.H)
    if options.d is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = options.X or ("GET" if options.d is None else "POST")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as peer:
        body = None if options.d is None else options.d.encode()
        peer.request(method, url.raw_path_qs, body, headers)
        reply = peer.getresponse()
        text = reply.read().decode()
    if options.i:
        lines = [f"HTTP/1.1 {reply.status} {reply.reason}"]
        lines += [f"{name}: {value}" for name, value in reply.getheaders()]
        text = "\n".join([*lines, "", text])
    return text


def masked(reply: str) -> list[str]:
    """Return the lines of a reply without what differs from run to run."""
    for pattern in (SHORT.shape, LONG.shape, RFC3339, r"(?m)^Date: .*$"):
        reply = re.sub(pattern, "<time>", reply)
    pattern = r'("request_id": ?"|X-Request-Id: )[\w.-]+'
    reply = re.sub(pattern, r"\1<id>", reply)
    return [line.rstrip() for line in reply.rstrip().splitlines()]


def test_readme(tmp_path: Path) -> None:
    """Its requests, in order, against an empty database, give its replies."""
    examples = readme_examples()
    assert len(examples) >= 5, "the README shows the five documented requests"
    with serving(tmp_path) as ours:
        for command, reply in examples:
            assert masked(send(ours.port, command)) == masked(reply), command
