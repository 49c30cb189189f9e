"""Compare docs/grafana.json and docs/prometheus.yml with the metrics of a server.

    python -m checks.dashboard

The server requires tokens. It is scraped as docs/prometheus.yml says, after some
requests; then every query of the dashboard is parsed (promql-parser, in a virtual
environment of its own), and each of its metrics and labels must be among the scraped.
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks.support.report import print_table
from checks.support.server_process import (
    PROJECT,
    Server,
    exchange,
    request_bytes,
    serving,
)
from checks.support.venvs import environment

DOCS = PROJECT / "docs"
TOOLS = ("promql-parser==0.12.0", "PyYAML==6.0.3")
ADDED_LABELS = {"instance", "job"}
"""The labels that Prometheus adds to every metric."""


def parse() -> Any:
    """Return the scrape config, and the metrics and labels of the queries on stdin."""
    yaml = importlib.import_module("yaml")
    promql = importlib.import_module("promql_parser")

    def names(query: str) -> tuple[list[str], list[str]]:
        metrics: list[str] = []
        labels: list[str] = []

        def visit(part: Any) -> None:
            if isinstance(part, promql.VectorSelector):
                metrics.append(part.name)
                labels.extend(matcher.name for matcher in part.matchers.matchers)
            elif isinstance(part, promql.AggregateExpr) and part.modifier:
                labels.extend(part.modifier.labels)

        promql.walk(promql.parse(query), visit)
        return metrics, labels

    text = (DOCS / "prometheus.yml").read_text()
    config = yaml.safe_load(re.sub("(?m)# (?=authorization:$|  [a-z_]+:)", "", text))
    return {
        "config": config,
        "queries": [names(query) for query in json.load(sys.stdin)],
    }


def run_parse(queries: list[str]) -> Any:
    """Run `parse` in the environment of the parsers. RuntimeError when it fails."""
    plain = [query.replace("$__rate_interval", "1m") for query in queries]
    ended = subprocess.run(
        [
            environment("dashboard", *TOOLS) / "python",
            "-m",
            "checks.dashboard",
            "--parse",
        ],
        cwd=PROJECT,
        input=json.dumps([query.replace("$job", ".+") for query in plain]),
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return json.loads(ended.stdout)


def queries_of(dashboard: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the title, the query and the legend of each panel and variable."""
    for variable in dashboard["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]):
            yield f"variable {variable['name']}", match[1], f"{{{{{match[2]}}}}}"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


def scrape(server: Server, config: Any, token: str) -> dict[str, set[str]]:
    """Return the labels of each metric, after some requests.

    RuntimeError when the scrape is refused.
    """
    # Imported here, since the environment of the parsers does not have it.
    from prometheus_client.parser import text_string_to_metric_families

    (settings,) = config["scrape_configs"]
    scheme = settings["authorization"]["type"]
    headers = [("Authorization", f"{scheme} {token}")]
    for path in ("/api/v1/customer", "/api/v1/customer/1", "/docs"):
        exchange(server.port, request_bytes("GET", path, headers=headers))
    reply = exchange(
        server.port, request_bytes("GET", settings["metrics_path"], headers=headers)
    )
    if reply.status != 200:
        raise RuntimeError(f"the scrape got {reply.status}")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def read_token(folder: Path) -> str:
    """Return a token that may read, created by the command in prometheus.yml."""
    config = (DOCS / "prometheus.yml").read_text()
    command = re.search(r"python server\.py (token \S+ --read)", config)
    assert command is not None
    ended = subprocess.run(
        [sys.executable, PROJECT / "server.py", *command[1].split()],
        capture_output=True,
        text=True,
        check=True,
    )
    token, line = ended.stdout.splitlines()
    (folder / "tokens").write_text(line)
    return token


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parse", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().parse:
        json.dump(parse(), sys.stdout)
        return 0
    drawn = list(queries_of(json.loads((DOCS / "grafana.json").read_text())))
    parsed = run_parse([query for _, query, _ in drawn])
    with tempfile.TemporaryDirectory() as name:
        token = read_token(Path(name))
        with serving(Path(name), {"API_TOKENS_FILE": "tokens"}) as server:
            known = scrape(server, parsed["config"], token)
    rows, breaches = [], 0
    for (title, _, legend), (metrics, labels) in zip(
        drawn, parsed["queries"], strict=True
    ):
        wanted = {*labels, *re.findall(r"\{\{(\w+)\}\}", legend)} - ADDED_LABELS
        there = set().union(*(known.get(metric, set()) for metric in metrics))
        missing = sorted({*metrics} - known.keys()) + sorted(wanted - there)
        breaches += bool(missing) or not metrics
        rows.append((title, ", ".join(dict.fromkeys(metrics)), ", ".join(missing)))
    print_table(("drawn", "metrics", "not on /metrics"), rows)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
