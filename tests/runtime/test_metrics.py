"""The metrics."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from storage.sqlite_engine import SqliteEngine
from tests.storage.faults import move_away
from tests.support import ApiClient, one_engine


async def test_metrics(api: ApiClient, engine: Any, purchase: int) -> None:
    await api("GET /api/v1/customer/7", None, 404)
    await api("GET /nowhere", None, 404)
    reply = await api("GET /metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }
    counted = "http_server_request_duration_seconds_count"
    for labels in (
        ("POST", "/api/v1/customer", "201"),
        ("POST", "/api/v1/purchase/{customer_id}", "201"),
        ("GET", "/api/v1/customer/{customer_id}", "404"),
        ("GET", "unmatched", "404"),
    ):
        assert samples[counted, *sorted(labels)] == 1, reply.text
    assert samples["http_server_active_requests",] == 1
    assert samples["database_units_written_total",] >= 2
    assert samples["database_commits_total",] >= 2
    assert samples["database_size_bytes",] > 0 or not isinstance(engine, SqliteEngine)
    assert samples["database_units_waiting", "write"] == 0


@one_engine
async def test_metrics_of_a_lost_file(api: ApiClient, sqlite_path: Path) -> None:
    move_away(sqlite_path)
    reply = await api("GET /metrics")
    assert "database_size_bytes" in reply.text
