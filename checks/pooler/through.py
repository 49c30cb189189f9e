"""A plugin of pytest: every schema of the tests is reached through one pgbouncer.

    pytest -p checks.pooler.through test.py

Its sessions are left as a careless client leaves them.
"""

from typing import Any

import pytest

from checks.pooler.bouncer import Bouncer
from checks.support.postgres_cluster import Cluster

running: dict[int, Bouncer] = {}
"""The pgbouncer of each PostgreSQL server, by its port."""
directly = Cluster.new_schema


def new_schema(cluster: Cluster) -> str:
    """Return the URL of an empty schema, through a pooler."""
    if cluster.port not in running:
        running[cluster.port] = Bouncer(cluster).start()
    return running[cluster.port].through(directly(cluster))


def pytest_configure(config: pytest.Config) -> None:
    """Put the pooler between."""
    patched: Any = Cluster
    patched.new_schema = new_schema


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what was started."""
    for bouncer in running.values():
        bouncer.stop()
