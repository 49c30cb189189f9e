"""Whether a file is whole and what is in it, told without a change to anything."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import db
from checks.support.server_process import Server, exchange, request_bytes, serving
from storage import schema, search_index, sqlite_file, sqlite_verify
from storage.sqlite_connection import driver
from storage.sqlite_file import PAGE_BYTES
from tests.support import DESCRIBED, JOHN, OTHERS, PHONE, PROJECT, Main, post, run_sql

needs_index = pytest.mark.skipif(
    not search_index.AVAILABLE, reason="this SQLite cannot have the index"
)


def state(folder: Path) -> dict[str, object]:
    """Return all that a reader could change in a folder."""
    found: dict[str, object] = {".": folder.stat().st_mtime_ns}
    for file in folder.iterdir():
        told = file.stat()
        content = file.read_bytes() if file.is_file() else b""
        found[file.name] = content, told.st_mtime_ns, told.st_mode, told.st_ino
    return found


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Assert that a block changes nothing in a folder."""
    before = state(folder)
    yield
    assert state(folder) == before


def told(path: Path) -> str:
    """Return what `verify` says of a whole file, without its name and size."""
    with unchanged(path.parent):
        line = sqlite_verify.verify(path)
    found = re.fullmatch(r"(.*): whole, [0-9]+(?: kB|\.\d [MG]B), (.*)", line)
    assert found, line
    assert found[1] == str(path)
    return found[2]


def fault(path: Path) -> str:
    """Return what `verify` says of another one, without its name."""
    with unchanged(path.parent), pytest.raises(db.StartupError) as raised:
        sqlite_verify.verify(path)
    line = str(raised.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def fill(path: Path, customers: int = 300) -> None:
    """Make a database with a history, some purchases for each customer, and indexes."""
    sqlite_file.create_or_migrate(path)
    run_sql(
        path,
        f"""
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
            LIMIT {customers})
        INSERT INTO customer (name, name_folded, date_created)
        SELECT 'Customer ' || i, 'customer ' || i, '2026-11-27' FROM n;
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        SELECT 'thing ' || c.id, 1, c.id, '2026-11-' || (10 + d.id % 20)
        FROM customer AS c, customer AS d WHERE d.id <= 20;
        INSERT INTO history (at, action, customer_id)
        SELECT date_created, 'customer.created', id FROM customer;
        INSERT INTO history (at, action, customer_id, purchase_id)
        SELECT '2026-11-27 02:29:14.606608+00:00', 'purchase.added', customer_id, id
        FROM purchases;
        INSERT INTO purchase_blocks VALUES (0, '2026-11-10', '2026-11-29');""",
    )
    if search_index.AVAILABLE:
        run_sql(
            path,
            "INSERT INTO customer_names (rowid, name_folded) "
            "SELECT id, name_folded FROM customer",
        )


FULL = "300 customers, 6,000 purchases, newest change 6300 at 2026-11-27T02:29:14Z"


def test_whole(main: Main, sqlite_path: Path) -> None:
    fill(sqlite_path)
    assert told(sqlite_path) == FULL
    with unchanged(sqlite_path.parent):
        size = sqlite_path.stat().st_size // 1000
        line = f"db.sqlite3: whole, {size} kB, {FULL}\n"
        assert main("verify", "db.sqlite3") == (0, line, "")


def ask(ours: Server, method: str, path: str) -> bytes:
    """Return the body of a reply."""
    return exchange(ours.port, request_bytes(method, path)).body


def test_served_database(tmp_path: Path) -> None:
    """What is in the WAL alone counts; what lists do not show does not."""
    with serving(tmp_path) as ours:
        for _ in range(3):
            exchange(ours.port, post("/api/v1/customer", JOHN))
        for owner in (1, 1, 2, 2, 3):
            exchange(ours.port, post(f"/api/v1/purchase/{owner}", PHONE))
        ask(ours, "DELETE", "/api/v1/purchase/1?delete_all=true")
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
        ask(ours, "DELETE", "/api/v1/customer/3")
        path = tmp_path / "db.sqlite3"
        assert path.with_name("db.sqlite3-wal").stat().st_size > 0
        listed = [ask(ours, "GET", f"/api/v1/{of}") for of in ("customers", "customer")]
        customers, purchases = (len(json.loads(body)["data"]) for body in listed)
        assert (customers, purchases) == (2, 3)
        feed = json.loads(ask(ours, "GET", "/api/v1/changes?order=desc&limit=1"))
        newest = feed["data"][0]
        expected = (
            f"2 customers, 3 purchases, newest change {newest['change']} at "
            f"{newest['at'][:19]}Z"
        )
        assert told(path) == expected
        with closing(driver.connect(f"{path.as_uri()}?immutable=1", uri=True)) as seen:
            held = seen.execute("SELECT count(*) FROM history").fetchone()[0]
        assert held < int(newest["change"]), "the WAL was not needed"
        ours.stop(signal.SIGKILL)
        for left in ({"-shm"}, set()):  # an index of the WAL is made in memory
            assert path.with_name("db.sqlite3-wal").exists()
            assert path.with_name("db.sqlite3-shm").exists() == bool(left)
            assert told(path) == expected
            path.with_name("db.sqlite3-shm").unlink(missing_ok=True)


def test_one_of_each(tmp_path: Path) -> None:
    """A number of one has its own noun; a backup says the same."""
    copy = tmp_path / "copy"
    with serving(tmp_path) as ours:
        exchange(ours.port, post("/api/v1/customer", JOHN))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
        command = [*ours.command, "backup", str(copy)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)  # noqa: S603
    line = told(copy)
    assert re.fullmatch(
        r"1 customer, 1 purchase, newest change 2 at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        line,
    )
    said = f"{sqlite_verify.verify(copy)}\n".encode()
    assert (ended.stdout, ended.stderr) == (said, b"")


def test_history_that_is_forgotten(sqlite_path: Path) -> None:
    fill(sqlite_path, 0)
    assert told(sqlite_path) == "0 customers, 0 purchases, no change yet"
    run_sql(sqlite_path, "UPDATE history_start SET pruned = 7")
    assert told(sqlite_path).endswith("purchases, changes forgotten up to 7")


def test_change_of_many_rows(sqlite_path: Path) -> None:
    """It is told by the number that the API gives it, not by its last row."""
    fill(sqlite_path)
    run_sql(sqlite_path, "UPDATE history SET change = 301 WHERE id > 300")
    assert "newest change 301 at" in told(sqlite_path)


def page_of(path: Path, name: str) -> int:
    """Return where the last page of a table or an index begins.

    That is a leaf, to which the last pointer of each page above it leads
    (sqlite.org/fileformat.html#b_tree_pages).
    """
    with closing(driver.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        [page] = connection.execute(query, (name,)).fetchone()
    content = path.read_bytes()
    while True:
        start = (int(page) - 1) * PAGE_BYTES
        if content[start] in (10, 13):
            return start
        page = int.from_bytes(content[start + 8 : start + 12], "big")


def put(path: Path, at: int, content: bytes) -> None:
    """Write over some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def flip(path: Path, at: int) -> None:
    """Change the lowest bit of a byte."""
    put(path, at, bytes([path.read_bytes()[at] ^ 1]))


def flip_undo(path: Path) -> None:
    """Let an entry of an index of one page lead to another row."""
    run_sql(path, "UPDATE history SET undoes = 5 WHERE id = 301")
    flip(path, page_of(path, "history_undoes") + PAGE_BYTES - 1)


INDEX = "purchases_customer_id"
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "not a SQLite database"),
    (lambda path: path.write_bytes(b"garbage\n" * 9999), "not a SQLite database"),
    (lambda path: os.truncate(path, 50), "not a SQLite database"),
    (lambda path: os.truncate(path, 100), "damaged"),
    (lambda path: os.truncate(path, 3000), "damaged"),
    (lambda path: os.truncate(path, path.stat().st_size - PAGE_BYTES), "damaged"),
    (lambda path: put(path, 100, bytes(412)), "damaged"),  # the list of tables
    (lambda path: put(path, page_of(path, "purchases"), bytes(512)), "damaged: "),
    (lambda path: put(path, page_of(path, "history") + 8, b"\xff" * 504), "damaged: "),
    (lambda path: put(path, page_of(path, INDEX), bytes(PAGE_BYTES)), "damaged: "),
    (lambda path: flip(path, page_of(path, INDEX) + PAGE_BYTES - 1), "damaged: row "),
    (flip_undo, "damaged: row 301 missing from index history_undoes"),
    (lambda path: run_sql(path, OTHERS), ""),
    (
        lambda path: run_sql(path, "PRAGMA application_id = 1"),
        "the database of another program",
    ),
    (
        lambda path: run_sql(path, "PRAGMA user_version = 99"),
        "made by a newer version of this server",
    ),
    (lambda path: run_sql(path, "CREATE VIEW v AS SELECT 1"), "view 'v' is not as"),
    (lambda path: run_sql(path, "DROP INDEX hidden_change"), "index 'hidden_change'"),
    (
        lambda path: run_sql(path, "DELETE FROM customer WHERE id = 7"),
        "purchase 121 is of a customer who is not there",
    ),
    (
        lambda path: run_sql(
            path, "DELETE FROM history; UPDATE purchases SET customer_id = 999 "
            "WHERE id = 9"
        ),
        "purchase 9 is of a customer who is not there",
    ),
    (
        lambda path: run_sql(
            path, "UPDATE purchases SET date_created = '2026-12-01' WHERE id = 9"
        ),
        "the index by date is wrong about purchase 9",
    ),
    (
        lambda path: run_sql(
            path, "UPDATE purchases SET date_created = '2026-01-01' WHERE id = 4095"
        ),
        "the index by date is wrong about purchase 4095",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_damage(
    main: Main, sqlite_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    fill(sqlite_path)
    damage(sqlite_path)
    if not reason:  # a table of the operator's own
        assert told(sqlite_path) == FULL
        return
    assert reason in fault(sqlite_path)
    with unchanged(sqlite_path.parent):
        status, out, err = main("verify", "db.sqlite3")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("server.py: db.sqlite3: ")
    assert reason in err


@needs_index
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "UPDATE customer SET name_folded = 'x' WHERE id = 7",
            "wrong about customer 7",
        ),
        ("DELETE FROM customer_names WHERE rowid = 8", "wrong about customer 8"),
        (
            "INSERT INTO customer_names (rowid, name_folded) VALUES (999, 'x')",
            "wrong about customer 999",
        ),
        ("DELETE FROM customer_names_content WHERE id = 8", "damaged: "),
        (
            "UPDATE customer_names_data SET block = zeroblob(9) WHERE id > 10",
            "damaged: ",
        ),
    ],
)
def test_index_for_search(sqlite_path: Path, script: str, reason: str) -> None:
    fill(sqlite_path)
    run_sql(sqlite_path, script)
    assert reason in fault(sqlite_path)


@needs_index
def test_index_that_lags_behind(sqlite_path: Path) -> None:
    """Customers above its last one are not in it yet; one who is erased is not more."""
    fill(sqlite_path)
    run_sql(
        sqlite_path,
        """
        INSERT INTO customer (name, date_created) VALUES ('new', '');
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('new', 1, 1, '1970-01-01');
        UPDATE customer SET deleted = 0, name = '', name_folded = '' WHERE id = 7;
        DELETE FROM customer_names WHERE rowid = 7;""",
    )
    with closing(driver.connect(sqlite_path)) as connection:
        [top] = connection.execute("SELECT max(id) FROM purchases").fetchone()
    run_sql(sqlite_path, f"UPDATE purchases SET id = 9999 WHERE id = {top}")
    assert told(sqlite_path).startswith("300 customers, 6,001 purchases")


@needs_index
def test_index_that_was_emptied(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a library that cannot have it: FTS5 would call that damaged."""
    fill(sqlite_path)
    with monkeypatch.context() as patch:
        patch.setattr(search_index, "AVAILABLE", False)
        sqlite_file.create_or_migrate(sqlite_path)
    assert told(sqlite_path) == FULL
    flip(sqlite_path, page_of(sqlite_path, INDEX) + PAGE_BYTES - 1)
    assert "damaged: " in fault(sqlite_path)


@pytest.mark.parametrize("version", [1, 2])
def test_first_release(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(search_index, "AVAILABLE", False)
        patch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:version])
        sqlite_file.create_or_migrate(sqlite_path)
    run_sql(
        sqlite_path,
        """INSERT INTO customer (name, date_created) VALUES ('x', '');
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('x', 1, 1, ''), ('y', 1, 1, '');""",
    )
    expected = "1 customer, 2 purchases, no history: made by 1.0.0"
    assert told(sqlite_path) == expected
    run_sql(sqlite_path, "UPDATE purchases SET customer_id = 5")
    assert fault(sqlite_path) == "purchase 1 is of a customer who is not there"


def test_described_server(sqlite_path: Path) -> None:
    """Before and after it is taken over, with a purchase of a customer who is gone."""
    run_sql(sqlite_path, DESCRIBED)
    assert told(sqlite_path) == (
        "3 customers, 3 purchases, no history: made by the server that this API was "
        "first described for"
    )
    sqlite_file.create_or_migrate(sqlite_path)
    taken = "3 customers, 3 purchases (1 of customers who are gone), no change yet"
    assert told(sqlite_path) == taken
    run_sql(
        sqlite_path,
        """INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('x', 1, 2, '');
        INSERT INTO history (at, action, customer_id, purchase_id)
        SELECT '', 'purchase.added', 2, max(id) FROM purchases;""",
    )
    assert fault(sqlite_path) == "purchase 9 is of a customer who is not there"


def test_missing(main: Main, tmp_path: Path) -> None:
    assert fault(tmp_path / "missing") == "no such file"
    (tmp_path / "folder").mkdir()
    assert fault(tmp_path / "folder") == "not a file"


@contextmanager
def readable_only(folder: Path) -> Iterator[None]:
    """Take the right to write from all, and where this is root be somebody else."""
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    for file in modes:
        file.chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert not os.access(folder, os.W_OK, effective_ids=True)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        for file, mode in modes.items():
            file.chmod(mode)


@pytest.mark.skipif(sys.platform != "linux", reason="asks for effective rights")
@pytest.mark.parametrize("served", [True, False])
def test_folder_that_cannot_be_written(served: bool) -> None:
    """As a reader who may write nothing there, also beside a server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        folder.mkdir()
        fill(folder / "db.sqlite3")
        Path(name).chmod(0o755)
        if not served:
            with readable_only(folder):
                assert told(folder / "db.sqlite3") == FULL
            return
        with serving(folder) as ours:
            exchange(ours.port, post("/api/v1/customer", JOHN))
            with readable_only(folder):
                assert told(folder / "db.sqlite3").startswith("301 customers, 6,000 ")


def test_stopped(
    main: Main, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends it in one line, also one that comes between two statements."""

    def go_on(*_: object) -> None:
        pytest.fail("it goes on")

    fill(sqlite_path)
    for number in (signal.SIGTERM, signal.SIGINT):

        class Signalled(threading.Event):
            sent = number

            def is_set(self) -> bool:
                os.kill(os.getpid(), self.sent)
                return super().is_set()

        with unchanged(sqlite_path.parent), monkeypatch.context() as patch:
            patch.setattr(sqlite_verify, "Event", Signalled)
            patch.setattr(sqlite_verify, "check_meaning", go_on)
            assert main("verify", "db.sqlite3") == (
                *(1, ""),
                "server.py: db.sqlite3: interrupted\n",
            )

    def late(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    monkeypatch.setattr(sqlite_verify, "read_contents", late)
    assert fault(sqlite_path) == "interrupted"


def test_server_that_starts_meanwhile(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody had open is read without locks: who writes it then is noticed."""
    fill(sqlite_path)
    check_pages = sqlite_verify.check_pages

    def written(*given: object) -> None:
        run_sql(
            sqlite_path, "INSERT INTO customer (name, date_created) VALUES ('', '')"
        )
        check_pages(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_verify, "check_pages", written)
    with pytest.raises(db.StartupError, match="changed while it was read"):
        sqlite_verify.verify(sqlite_path)


def test_name_that_is_no_text(tmp_path: Path) -> None:
    """The line has the bytes of the name."""
    name = os.fsencode(tmp_path) + b"/by\xfft"
    try:
        Path(os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes only text for names")
    fill(tmp_path / "db.sqlite3", 0)
    shutil.copy(os.fsencode(tmp_path / "db.sqlite3"), name)
    program = sys.executable, str(PROJECT / "server.py"), "verify"
    command = [*map(os.fsencode, program), name]
    ended = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    assert ended.stdout.startswith(name + b": whole, ")
