"""The metrics."""

import asyncio
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from checks.support.server_process import request_bytes
from runtime.access_log import AccessLog
from runtime.metrics import BOUNDS, Metrics, MetricsSnapshot, count_durations
from runtime.workers import SharedMetrics, Worker
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


def samples_of(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return the samples of the only route, by name and bound."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name.rpartition("_")[2], sample.labels.get("le", "")): sample.value
        for family in families
        for sample in family.samples
        if "http_route" in sample.labels
    }


def record(metrics: Metrics, *seconds: float) -> None:
    """Record requests that took some seconds."""
    for took in seconds:
        metrics.record_request((0.0, "id", "GET", "/", 200, took, "", "/"))


def test_durations_on_the_bounds() -> None:
    """A bound counts what took as long as it, or less; the sum is of all."""
    figures = count_durations([0.005, 0.0051, 10.0, 10.5, 0.0])
    below = dict(zip(BOUNDS, figures, strict=False))
    assert below == {0.005: 2, 0.01: 1, 10: 1} | {
        bound: 0 for bound in BOUNDS if bound not in (0.005, 0.01, 10)
    }
    assert figures[len(BOUNDS)] == 1
    assert abs(figures[-1] - 20.5101) < 1e-9
    metrics = Metrics("1", AccessLog(enabled=False))
    record(metrics, 0.005, 0.3, 99.0)
    record(metrics, 0.3)
    found = samples_of(metrics)
    assert found["bucket", "0.005"] == 1
    assert found["bucket", "0.25"] == 1
    assert found["bucket", "0.5"] == 3
    assert found["bucket", "10"] == 3
    assert found["bucket", "+Inf"] == found["count", ""] == 4
    assert abs(found["sum", ""] - 99.605) < 1e-6


def test_snapshots_add_up() -> None:
    labels, others = ("GET", "/", "200"), ("GET", "/a", "200")
    first = MetricsSnapshot(
        {labels: count_durations([1.0])}, {"units": 2, "dropped": 1}
    )
    second = {labels: count_durations([1.0, 3.0]), others: count_durations([2.0])}
    first.add(MetricsSnapshot(second, {"units": 5}))
    assert first.durations[labels] == count_durations([1.0, 1.0, 3.0])
    assert first.durations[others] == count_durations([2.0])
    assert first.totals == {"units": 7, "dropped": 1}


def test_counts_of_a_dead_worker() -> None:
    """Who takes its place goes on from them; what was under way is no more."""
    shared = SharedMetrics(2)
    dead, other = Metrics("1", AccessLog(False)), Metrics("1", AccessLog(False))
    dead.in_flight = 3
    dead.join(Worker(0, True, shared, -1))
    other.join(Worker(1, False, shared, -1))
    record(dead, 0.3, 0.3)
    record(other, 0.3)
    dead.counts.totals["dropped"] = 5
    dead.flush()
    other.flush()
    heir = Metrics("1", AccessLog(False))
    heir.join(Worker(0, False, shared, -1))
    record(heir, 0.3)
    for metrics in (heir, other):
        assert samples_of(metrics)["count", ""] == 4
        text = metrics.text().decode()
        assert "access_log_lines_dropped_total 5.0" in text
        assert "http_server_active_requests 0.0" in text


@one_engine
async def test_requests_in_flight(api: ApiClient) -> None:
    """They are counted while they last, whatever ends them."""
    body = b'{"name": "x", "address": ""}'
    whole = request_bytes("POST", "/api/v1/customer", body)
    writers = []
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(whole[:-5])
        writers.append(writer)
    await asyncio.sleep(0.2)

    async def in_flight() -> int:
        text = (await api("GET /metrics")).text
        found = re.search(r"http_server_active_requests (\d+)", text)
        assert found is not None
        return int(found[1])

    assert await in_flight() == 4
    writers[0].write(whole[-5:])
    writers[1].transport.abort()
    await asyncio.sleep(0.2)
    assert await in_flight() == 2
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.2)
    assert await in_flight() == 1
