"""The index for search on PostgreSQL, for roles that may make it and that may not."""

import json
import logging
import secrets
from typing import Any

import pytest

import db
from storage.engine import Statement
from tests.storage.test_postgres_faults import Role, opened
from tests.support import MAX_ID, author, by

SELECT_INDEX = Statement("""
SELECT indexdef FROM pg_indexes
WHERE schemaname = current_schema() AND indexname = 'customer_name_trigrams'""")
PLAN = Statement("""
EXPLAIN (FORMAT JSON) SELECT id FROM customer WHERE name_folded LIKE '%wanted%'""")


def new_database(cluster: Any, *scripts: str) -> Role:
    """Create a role, and a database with a schema for it, in which scripts are run.

    The role may create nothing but in that schema, unless a script lets it.
    """
    name = f"role_{secrets.token_hex(4)}"
    cluster.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    cluster.sql(f"CREATE DATABASE {name}")
    for script in (f"CREATE SCHEMA {name} AUTHORIZATION {name}", *scripts):
        url = f"{cluster.url.rpartition('/')[0]}/{name}"
        cluster.run("psql", "--quiet", "-d", url, "-c", script.format(name))
    return Role(name, f"postgresql://{name}:secret@{cluster.host}/{name}")


def fetch(statement: Statement) -> db.Unit[list[Any]]:
    """Return the first values of the rows of a statement."""
    rows = yield statement, ()
    return [row[0] for row in rows]


def add_names(count: int) -> db.Unit[None]:
    """Add customers, the last of whom has another name, and plan anew."""
    yield (
        Statement(f"""
INSERT INTO customer (name, address, date_created, name_folded)
SELECT name, '', now(), lower(name) FROM (
    SELECT CASE WHEN i < {count} THEN 'Name ' || i ELSE 'Wanted_100%' END AS name
    FROM generate_series(1, {count}) AS i) AS people"""),
        (),
    )
    yield Statement("ANALYZE customer"), ()


MAY = "GRANT CREATE ON DATABASE {0} TO {0}"
THERE = "CREATE SCHEMA theirs; CREATE EXTENSION pg_trgm SCHEMA theirs;"


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        ([MAY], None),
        ([THERE + "GRANT USAGE ON SCHEMA theirs TO {0}"], None),
        ([THERE], "permission denied"),
        ([], "permission denied"),
    ],
)
async def test_role(
    postgresql_cluster: Any,
    caplog: pytest.LogCaptureFixture,
    scripts: list[str],
    reason: str | None,
) -> None:
    """It has the index where it may; search is the same with it and without."""
    role = new_database(postgresql_cluster, *scripts)
    for _ in range(2):  # another start changes nothing
        caplog.clear()
        with caplog.at_level(logging.INFO):
            async with opened(role.url) as engine:
                found = await engine.read(fetch, SELECT_INDEX)
        said = [one.message for one in caplog.records if "no index" in one.message]
        assert (len(found), len(said)) == ((0, 1) if reason else (1, 0))
        assert (reason or "") in "".join(said)
    async with opened(role.url, create=False) as engine:
        await engine.write(add_names, 20000)
        for descending, start in ((False, 0), (True, MAX_ID)):
            for part, ids in (("WANTED", [20000]), ("d_100%", [20000]), ("d_10_", [])):
                pages, after = [], start
                while after is not None:
                    values = part, descending, after, 10
                    page = await engine.scan(db.find_customers, *values)
                    pages += [row["id"] for row in json.loads(page.json)]
                    after = page.after
                assert pages == ids
                assert await engine.scan(db.count_customers, part) == len(ids)
        [plan] = await engine.read(fetch, PLAN)
        assert ("customer_name_trigrams" in plan) == (reason is None)
        await engine.write(db.update_customer, 1, "wanted", None, author(), None)
        assert await engine.scan(db.count_customers, "want") == 2


async def test_rows_that_are_not_settled(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page shows none above an id that a writer under way still may add."""
    monkeypatch.setattr("queries.history.WAITS", 2)
    role = new_database(postgresql_cluster, MAY)
    async with opened(role.url) as engine:
        await engine.write(add_names, 4000)
        [writer] = engine.writer.idle
        await writer.raw.execute("BEGIN")
        at = db.now()
        hers = "Her wanted", "", at, "her wanted", at, ""
        await writer.raw.fetch(db.INSERT_CUSTOMER.postgres, *hers)
        engine.writer.idle.clear()
        await engine.write(db.add_customer, "his wanted", "", *by())
        for part in ("", "wanted", "wa", "his"):
            for descending, start in ((False, 3900), (True, MAX_ID)):
                values = part, descending, start, 1000
                page = await engine.scan(db.find_customers, *values)
                ids = [row["id"] for row in json.loads(page.json)]
                assert max(ids, default=0) == (0 if part == "his" else 4000)
        await writer.raw.execute("COMMIT")
        await writer.close()
        page = await engine.scan(db.find_customers, "wanted", True, MAX_ID, 10)
        assert [row["id"] for row in json.loads(page.json)] == [4002, 4001, 4000]
