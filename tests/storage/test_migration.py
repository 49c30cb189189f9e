"""Databases: created, and migrated from earlier versions."""

import stat
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

import db
import server
from storage import schema, sqlite_file
from storage.batch_queue import run_unit
from storage.sqlite_connection import driver
from tests.support import (
    COLUMNS,
    CSV,
    DESCRIBED,
    JOHN,
    PHONE,
    Main,
    Opener,
    author,
    by,
    list_ids,
    one_engine,
    run_sql,
)


def test_make(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    server.try_make_db(url)
    assert stat.S_IMODE(sqlite_path.stat().st_mode) == 0o600
    assert list(sqlite_path.parent.iterdir()) == [sqlite_path]
    made = sqlite_path.read_bytes()
    server.try_make_db(url)
    assert sqlite_path.read_bytes() == made
    with closing(driver.connect(sqlite_path)) as connection:
        for table, columns in schema.DESCRIBED_COLUMNS.items():
            rows = connection.execute(f"SELECT * FROM {table}").description
            assert columns <= {column[0] for column in rows}


def test_make_by_default(main: Main, tmp_path: Path) -> None:
    server.try_make_db()
    assert (tmp_path / "db.sqlite3").exists()


@one_engine
async def test_described_database(sqlite_path: Path, opened: Opener) -> None:
    run_sql(sqlite_path, DESCRIBED)
    api = await opened()
    at = "2022-04-09 12:43:"
    rows = [
        (1, "x", 0, f"{at}22.000000+00:00", None, "1"),
        (2, "y", 4, f"{at}28.321654+00:00", f"{at}56.924416+00:00", "9"),
        (5, "z", 3, "yesterday", None, "4"),
    ]
    listed = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert (await api("GET /api/v1/customer")).data == listed
    people = (await api("GET /api/v1/customers")).data
    short = "Apr 09 2022 12:43:17"
    assert people == [
        {"id": 1, "name": "Ada", "address": None, "created_on": short},
        {"id": 4, "name": "Straße", "address": "", "created_on": short},
        {"id": 5, "name": "Bob", "address": "", "created_on": "yesterday"},
    ]
    assert (await api("GET /api/v1/customers?name=STRASSE")).data == people[1:2]
    assert (await api("GET /api/v1/customers", Accept=CSV)).text.count(",,") == 3
    for number, owner in ((1, 1), (2, 9), (5, 4)):
        await api(f"GET /api/v1/customer/{owner}/purchase/{number}")
        reply = await api(f"PATCH /api/v1/purchase/{number}", {"purchase_name": "new"})
        row = next(row for row in rows if row[0] == number)
        assert (reply.data["quantity"], reply.data["purchased_on"]) == row[2:4]
    reply = await api("PATCH /api/v1/customer/1", {"name": "Ida"})
    assert reply.data == {**people[0], "name": "Ida"}
    assert (await api("POST /api/v1/customer", JOHN, 201)).data["id"] == 10
    assert (await api("POST /api/v1/purchase/1", PHONE, 201)).data["id"] == 9
    assert (await api("DELETE /api/v1/customer/1")).json["deleted_count"] == 2


@one_engine
async def test_ids_of_customers_who_are_gone(sqlite_path: Path, opened: Opener) -> None:
    """Nobody inherits what they bought."""
    run_sql(sqlite_path, DESCRIBED.replace(" AUTOINCREMENT", ""))
    run_sql(sqlite_path, "UPDATE purchases SET customer_id = ~(1 << 63) WHERE id = 1")
    api = await opened()
    assert (await api("POST /api/v1/customer", JOHN, 201)).data["id"] == 10
    assert (await api("GET /api/v1/purchase/10")).data == []


ODD = """
UPDATE customer SET address = CAST(X'610062' AS TEXT);
CREATE INDEX purchases_customer_id ON purchases (customer_id);
CREATE INDEX by_name ON customer (name);
UPDATE customer SET name = CAST(X'61FF62' AS TEXT),
    date_created = 'Apr 09 2022 12:43:17';
UPDATE purchases SET purchase_name = X'C39F', last_updated = '', quantity = 'many',
    date_created = '0001-01-01 00:00:00+14:00';
ANALYZE;
"""


@one_engine
async def test_odd_described_database(sqlite_path: Path, opened: Opener) -> None:
    """Text that is none, times that are none, and what an operator may have added."""
    run_sql(sqlite_path, DESCRIBED + ODD)
    api = await opened()
    person = (await api("GET /api/v1/customers?limit=1")).data[0]
    assert (person["name"], person["address"]) == ("a\ufffdb", "a\0b")
    assert person["created_on"] == "Apr 09 2022 12:43:17"
    row = (await api("GET /api/v1/customer?limit=1")).data[0]
    assert (row["purchase_name"], row["quantity"]) == ("ß", 0)
    assert row["purchased_on"] == "0001-01-01 00:00:00+14:00"
    assert row["last_updated_on"] is None


@one_engine
async def test_described_database_in_use(sqlite_path: Path, opened: Opener) -> None:
    """It is known for ours from then on, also while only its WAL says so."""
    run_sql(sqlite_path, f"PRAGMA journal_mode = WAL; {DESCRIBED}")
    with closing(driver.connect(sqlite_path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM customer").fetchall()
        api = await opened()
        await api("POST /api/v1/customer", JOHN, 201)
        copy = sqlite_path.with_name("copy.sqlite3")
        for end in ("", "-wal"):
            file = sqlite_path.with_name(f"{sqlite_path.name}{end}")
            copy.with_name(f"{copy.name}{end}").write_bytes(file.read_bytes())
    sqlite_file.create_or_migrate(copy)
    with closing(driver.connect(copy)) as connection:
        names = connection.execute("SELECT name FROM customer").fetchall()
    assert ("John Doe",) in names


def test_migrated_by_two(sqlite_path: Path) -> None:
    """The one who comes second finds nothing left to do."""
    run_sql(sqlite_path, DESCRIBED)
    sqlite_file.create_or_migrate(sqlite_path)
    made = sqlite_path.read_bytes()
    sqlite_file._migrate(sqlite_path, legacy=True)
    assert sqlite_path.read_bytes() == made


def test_described_database_without_rows(sqlite_path: Path) -> None:
    """Nor does every table of it have to keep its ids from being used again."""
    plain = DESCRIBED.split("INSERT")[0].replace(" AUTOINCREMENT", "")
    run_sql(sqlite_path, plain.replace(" NOT NULL", ""))
    run_sql(sqlite_path, "INSERT INTO purchases (quantity) VALUES (NULL)")
    server.try_make_db(f"sqlite:///{sqlite_path}")
    with closing(driver.connect(sqlite_path)) as connection:
        rows = connection.execute("SELECT * FROM purchases").fetchall()
    assert rows == [(1, "", 0, 0, "1970-01-01 00:00:00.000000+00:00", None, 1, None)]


@one_engine
@pytest.mark.parametrize("version", [*range(1, len(schema.MIGRATIONS))])
async def test_earlier_version_of_ours(
    sqlite_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:version])
    sqlite_file.create_or_migrate(sqlite_path)
    monkeypatch.undo()
    run_sql(
        sqlite_path,
        """INSERT INTO customer (id, name, address, date_created)
        VALUES (3, 'Straße Rene' || char(769), 'x', '2022-04-09 12:43:17.000000+00:00');
        INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
        VALUES (7, 'y', 4, 3, '2022-04-09 12:43:17.000000+00:00');
        DELETE FROM purchases;
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('y', 4, 3, '2022-04-09 12:43:17.000000+00:00')""",
    )
    if version > 2:  # from then on as fold_name makes it
        run_sql(sqlite_path, "UPDATE customer SET name_folded = 'strasse ren\u00e9'")
    api = await opened()
    for part in ("sse", "REN%C3%89"):
        assert (await api(f"GET /api/v1/customers?name={part}")).data[0]["id"] == 3
    assert await list_ids(api) == [8]
    tag = (await api("GET /api/v1/customer/3/purchase/8")).headers["ETag"]
    await api("PATCH /api/v1/purchase/8", {"quantity": 5}, If_Match=tag)
    await api("POST /api/v1/purchase/3", PHONE, 201, Idempotency_Key="k")


def fail(_: object) -> db.StoredResponse:
    """Refuse to make a response anew."""
    raise AssertionError


@pytest.mark.parametrize("version", [*range(2, 7)])
def test_keys_of_an_earlier_version(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """What was answered is answered again, and goes with its customer."""
    whole = sha256(b"body of the request").digest()
    key = db.IdempotencyKey("caller", "POST", "/path", "key", whole[:16])

    monkeypatch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:version])
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(
        sqlite_path,
        f"""INSERT INTO customer (id, name, address, date_created)
        VALUES (1, 'x', 'y', '{db.now()}');
        INSERT INTO idempotency (caller, method, path, key, fingerprint, created,
            status, location, etag, body, customer_id)
        VALUES ('caller', 'POST', '/path', 'key', '{whole.hex()}', '{db.now()}',
            201, '/1', '"1"', 'body', 1)""",
    )
    monkeypatch.undo()
    sqlite_file.create_or_migrate(sqlite_path)
    with closing(driver.connect(sqlite_path)) as raw:
        unit = db.run_idempotent(key, fail, db.add_customer, *("x", "", *by()))
        first = db.StoredResponse(201, "/1", '"1"', b"body", 1, None, replayed=True)
        assert run_unit(raw, unit) == first
        run_unit(raw, db.purge_customer(1, author(), None))
        while run_unit(raw, db.purge_step(1)):
            pass
        select = "SELECT status, fingerprint, response FROM idempotency"
        assert raw.execute(select).fetchall() == [(201, b"", b"")]
