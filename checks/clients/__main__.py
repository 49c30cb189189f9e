"""Make clients from /openapi.json with others' generators, and use each on all routes.

    python -m checks.clients

openapi-python-client, openapi-typescript with openapi-fetch, and openapi-generator
(typescript-fetch) generate; mypy or `tsc --strict` reads what they made together with
a program that uses it, and that program sends every request of the API to a server
that wants a token. No code of this project encodes the requests or decodes the replies.
redocly and spectral read the description and find no error.

What is made for Node.js is left out, with a line that says so, where npm is missing.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import handlers
from checks.clients import tools
from checks.clients.expected import EXPECTED, matches
from checks.clients.tools import Client, Command, ToolError
from checks.fuzz import new_token
from checks.support.report import print_breaches, print_table
from checks.support.server_process import (
    Server,
    answered_routes,
    exchange,
    request_bytes,
    serving,
)

LINTERS: dict[str, Command] = {
    "redocly": ("redocly", "lint", "--format=stylish", "openapi.json"),
    "spectral": ("spectral", "lint", "--ruleset", "spectral.json", "openapi.json"),
}
Row = tuple[str, str, str, str]


def prepare(folder: Path, node: Path | None, client: Client, url: str) -> None:
    """Generate a client into a folder, and check the program that uses it."""
    if node is not None:
        (folder / "node_modules").symlink_to(node.parent)
    shutil.copy(tools.HERE / "tsconfig.json", folder)
    shutil.copy(client.driver, folder)
    generate = [str(part).replace("URL", url) for part in client.generate]
    tools.run(generate, folder)
    tools.run(client.check, folder)


def missed_routes(server: Server, token: str) -> list[str]:
    """Return the routes of which /metrics tells no success."""
    answered = answered_routes(server, token) | {("GET", "/metrics")}
    routes = [(route.method, route.path) for route in handlers.ROUTES]
    return [" ".join(route) for route in routes if route not in answered]


def try_client(node: Path | None, client: Client) -> tuple[Row, list[str]]:
    """Return the row of a client, and its breaches."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = new_token(folder)
        with serving(folder, {"API_TOKENS_FILE": "tokens"}) as server:
            work = folder / "client"
            work.mkdir()
            try:
                prepare(work, node, client, server.url)
                output = tools.run((*client.drive, server.url, token), work)
            except ToolError as exc:
                return (client.name, "failed", "-", "-"), [str(exc)]
            missed = missed_routes(server, token)
        seen = json.loads(output)
    breaches = [f"{client.name} reached no {route}" for route in missed]
    breaches += [
        f"{client.name}, {request}: {seen.get(request)}"
        for request, expected in EXPECTED.items()
        if not matches(expected, seen.get(request))
    ]
    routes = f"{len(handlers.ROUTES) - len(missed)} of {len(handlers.ROUTES)}"
    return (client.name, "generated, checked", str(len(seen)), routes), breaches


def lint(node: Path) -> list[str]:
    """Let the linters read the description; print what they say, return the errors."""
    errors = []
    for secured in ({}, {"API_TOKENS_FILE": "tokens"}):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            new_token(folder)
            with serving(folder, secured) as server:
                text = exchange(server.port, request_bytes("GET", "/openapi.json")).body
            (folder / "openapi.json").write_bytes(text)
            (folder / "spectral.json").write_text('{"extends": ["spectral:oas"]}')
            for linter, (program, *arguments) in LINTERS.items():
                try:
                    said = tools.run((node / program, *arguments), folder)
                except ToolError as exc:
                    errors.append(str(exc))
                else:
                    warnings = len(re.findall(r"\bwarning\b +[a-z]", said))
                    print(f"{linter}: no error, {warnings} warnings")
    return errors


def main() -> int:
    """Run the check; 1 on a breach."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    node = tools.node_programs()
    if node is None:
        print("without npm: no client for Node.js, no linter")
    rows, breaches = [], [] if node is None else lint(node)
    for client in tools.clients(node):
        row, found = try_client(node, client)
        rows.append(row)
        breaches += found
    print_table(("client", "is", "requests sent", "routes that answered 2xx"), rows)
    return print_breaches(breaches)


if __name__ == "__main__":
    sys.exit(main())
