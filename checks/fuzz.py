"""Fuzz a running server from its own description, with schemathesis.

    python -m checks.fuzz [--examples 50] [--seed N]

All of its checks are on, except one at one path (see CONFIG), and all of its phases:
the examples, the bounds of every value, random requests that the description allows
and that it forbids, and sequences of requests that follow the links. The server
requires a token, so requests without one are tried too. support/fuzz_hooks.py holds the
rules that OpenAPI cannot express.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checks.support.server_process import PROJECT, Server, print_table, serving
from checks.support.venvs import environment

SCHEMATHESIS = "schemathesis==4.32.5"
PHASES = ("examples", "coverage", "fuzzing", "stateful")

# 412 is added to the statuses of valid requests, since a description cannot contain the
# current entity tag of a row. DELETE of /purchase/{id} deletes purchases of the
# customer {id}, or updates a purchase; the resource at the path continues to exist, so
# use_after_free does not apply there. It stays on for the deletion of customers.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "429", "5xx"]

[[operations]]
include-path = "/api/v1/purchase/{id}"
checks.use_after_free.enabled = false
"""


def new_token(folder: Path) -> str:
    """Return a token that may write, and store it for the server in a file."""
    command = [sys.executable, str(PROJECT / "server.py"), "token", "fuzz"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    token, line = ended.stdout.splitlines()
    (folder / "tokens").write_text(line)
    return token


def fuzz(server: Server, token: str, examples: int, seed: int | None) -> Any:
    """Run schemathesis and return its report. RuntimeError when it writes none."""
    programs = environment("fuzz", SCHEMATHESIS)
    report, config = server.folder / "report.json", server.folder / "fuzz.toml"
    config.write_text(CONFIG)
    command: list[str | Path] = [
        programs / "schemathesis",
        "--config-file",
        config,
        "--no-color",
        "run",
    ]
    command += [f"{server.url}/openapi.json", "-H", f"Authorization: Bearer {token}"]
    # Without --checks all: it is the default, and as an option it overrides CONFIG.
    command += ["--phases", ",".join(PHASES)]
    command += ["--max-examples", str(examples), "--continue-on-failure"]
    command += ["--generation-database", "none", "--output-sanitize", "false"]
    command += ["--report", "json", "--report-json-path", report]
    command += ["--seed", str(seed)] if seed is not None else []
    hooks = {
        "SCHEMATHESIS_HOOKS": "checks.support.fuzz_hooks",
        "PYTHONPATH": str(PROJECT),
    }
    ended = subprocess.run(
        command,
        cwd=server.folder,
        env=os.environ | hooks,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        print("\n".join(line[:400] for line in ended.stdout.splitlines()))
    if not report.exists():
        raise RuntimeError(f"schemathesis ended with {ended.returncode}")
    followed = re.search(r"API Links: +(\d+) covered / (\d+) selected", ended.stdout)
    links = followed.groups() if followed else ("0", "0")
    return json.loads(report.read_text()) | {"links": links}


def breaches_of(report: Any, errors: str) -> list[str]:
    """Return the breaches in the report and in the log of the server."""
    cases, operations = report["test_cases"], report["operations"]
    found = [
        f"{failure['title']}: {', '.join(failure['operations'])}"
        for failure in report["failures"]
    ]
    found += [str(error) for error in report["errors"]]
    found += [
        f"warning {name}: {held}" for name, held in report["warnings"].items() if held
    ]
    if cases["errored"]:
        found.append(f"{cases['errored']} cases were not sent or not answered")
    if operations["tested"] != operations["total"]:
        found.append(
            f"{operations['tested']} of {operations['total']} operations tried"
        )
    if report["links"][0] == "0":
        found.append("no link was followed from one request to another")
    if report["exit_code"] and not found:
        found.append(f"exit status {report['exit_code']}")
    found += [line for line in errors.splitlines() if '"level":"error"' in line]
    return found


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--examples", type=int, default=50, help="cases an operation, at the most"
    )
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        token = new_token(Path(name))
        with serving(Path(name), {"API_TOKENS_FILE": "tokens"}) as server:
            report = fuzz(server, token, options.examples, options.seed)
            breaches = breaches_of(report, server.errors())
    print_table(
        ("schemathesis", "figure"),
        [
            ("operations tried", report["operations"]["tested"]),
            ("cases sent", report["test_cases"]["generated"]),
            *(
                (f"phase {phase}", report["phases"][phase]["status"])
                for phase in PHASES
            ),
            ("links followed", " of ".join(report["links"])),
            ("failures", report["test_cases"]["unique_failures"]),
            ("seconds", f"{report['running_time']:.0f}"),
            ("seed", report["seed"]),
        ],
    )
    for breach in breaches:
        print(f"breach: {breach[:1000]}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
