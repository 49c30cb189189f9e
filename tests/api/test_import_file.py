"""Files to import: what is read from them, and the faults that are found."""

import csv
import io
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from api.import_columns import CACHED, csv_values
from api.import_file import ImportReader
from api.listing import FORMATS
from api.replies import CUSTOMER_ROWS, PURCHASE_ROWS
from api.responses import FieldError, ProblemError
from tests.import_support import (
    HEADER,
    ID,
    MIDNIGHT,
    NOW,
    TIME,
    pairs_of,
    read,
    rows_of,
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            "\ufeffcustomer_id;purchase_name;quantity;purchased_on\r\n"
            '7;"Käse; alt";4;2022-04-09\r\n8;"5"" pipe\nlong";1;\r\n;;;\r\n',
            id="Excel",
        ),
        pytest.param(
            "sep=;\r\ncustomer_id;purchase_name;quantity;purchased_on;;\r\n"
            '7;"Käse; alt";4;2022-04-09;;\r\n8;"5"" pipe\nlong";1;;;\r\n',
            id="Excel, with the separator in a line",
        ),
        pytest.param(
            "customer_id,purchase_name,quantity,purchased_on\n"
            '7,Käse; alt,4,2022-04-09\n8,"5"" pipe\nlong",1,\n',
            id="LibreOffice",
        ),
        pytest.param(
            "Customer_ID , Purchase_Name,Quantity,Purchased_On\r\n"
            '7,Käse; alt,4,2022-04-09\r\n8,"5"" pipe\nlong",1,\r\n,,,',
            id="Google Sheets",
        ),
        pytest.param(
            "customer_id,purchase_name,quantity,purchased_on\n"
            "7.0,Käse; alt,4.0,2022-04-09 02:00:00+02:00\n"
            '8.0,"5"" pipe\nlong",1.0,\n',
            id="pandas",
        ),
        pytest.param(
            "\rcustomer_id,purchase_name,quantity,purchased_on\r\r"
            '7,Käse; alt,4e0,2022-04-09\r 8 ,"5"" pipe\nlong",0.1e1,\r',
            id="old Mac",
        ),
    ],
)
def test_csv_of(content: str) -> None:
    assert rows_of(read(content)) == [
        [7, "Käse; alt", 4, MIDNIGHT, None, None],
        [8, '5" pipe\nlong', 1, None, None, None],
    ]


def test_purchases_by_name() -> None:
    reader = read(
        "quantity,customer_address,customer_name,purchase_name\n"
        "1,Delft,Ada,Tea\n2,,Ada,Tea\n3,Delft,Ada,Milk\n"
    )
    assert rows_of(reader) == [
        [0, "Tea", 1, None, None, None],
        [1, "Tea", 2, None, None, None],
        [0, "Milk", 3, None, None, None],
    ]
    assert reader.rows.by_pair
    assert reader.rows.kind == "purchases"
    assert pairs_of(reader) == [["Ada", "Delft"], ["Ada", ""]]
    assert [*reader.rows.customers] == [0, 1, 0]
    assert [*reader.rows.lines] == [2, 3, 4]
    assert reader.rows.has_ids is False


@pytest.mark.parametrize("names", ["customer_name,customer_address", "name,address"])
def test_customers_alone(names: str) -> None:
    """Who is there twice becomes a customer once."""
    reader = read(f"{names}\nAda,Delft\nBob,\nAda,Delft\nAda,delft\n")
    assert rows_of(reader) == [
        ["Ada", "Delft", None, None],
        ["Bob", "", None, None],
        ["Ada", "delft", None, None],
    ]
    assert [*reader.rows.lines] == [2, 3, 5]
    assert reader.rows.kind == "customers"


def test_customers_with_ids() -> None:
    reader = read(
        "id,name,address,created_on\n7,Ada,Delft,Apr 09 2022 12:43:17\n"
        "3,Ada,Delft,2022-04-09\n9,Ada,Delft,2022-04-09T12:43:17Z\n"
    )
    assert rows_of(reader) == [
        ["Ada", "Delft", "2022-04-09 12:43:17.000000+00:00", 7],
        ["Ada", "Delft", MIDNIGHT, 3],
        ["Ada", "Delft", "2022-04-09 12:43:17.000000+00:00", 9],
    ]
    assert reader.rows.has_ids
    assert (reader.rows.least_id, reader.rows.greatest_id) == (3, 9)


def test_rows_in_chunks() -> None:
    reader = read(f"{HEADER}\n" + "1,Tea,1\n" * 4001)
    assert [len(json.loads(chunk)) for chunk in reader.rows.chunks] == [2000, 2000, 1]
    assert [*reader.rows.customers] == [1] * 4001


def test_cached_values() -> None:
    """However many there are, few are kept."""
    values = csv_values("quantity", NOW)
    for number in range(1, 5000):
        assert values[f"{number}.0"] == number
        assert len(values) <= CACHED


def test_jsonl() -> None:
    lines = [
        '{"customer_id": 7, "purchase_name": "Tea", "quantity": 4}',
        "",
        '{"quantity": 4.0, "customer_id": "8", "purchase_name": "\\ud83d\\ude00",'
        ' "purchased_on": "2022-04-09"}',
        '{"customer_id": 9.0, "purchase_name": "=\'x", "quantity": 4e0,'
        ' "purchased_on": null, "last_updated_on": "2022-04-09"}',
    ]
    rows = [
        [7, "Tea", 4, None, None, None],
        [8, "😀", 4, MIDNIGHT, None, None],
        [9, "='x", 4, None, MIDNIGHT, None],
    ]
    for end in ("\n", "\r\n"):
        reader = read(end.join(lines), is_csv=False)
        assert rows_of(reader) == rows
        assert [*reader.rows.lines] == [1, 3, 4]
        assert rows_of(read("\ufeff" + end.join([*lines, ""]), is_csv=False)) == rows


def test_jsonl_of_customers() -> None:
    pair = '{"customer_name": "Ada", "customer_address": "Delft"}\n'
    assert rows_of(read(pair * 2, is_csv=False)) == [["Ada", "Delft", None, None]]
    with_id = '{"id": 1, "name": "Ada", "address": null, "created_on": null}\n'
    assert rows_of(read(with_id, is_csv=False)) == [["Ada", "", None, 1]]


nasty = st.text(
    st.one_of(
        st.sampled_from("'=+-@\uff1d\uff0b\uff0d\uff20\t\r\n\",; |x\x85\u2028"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=12,
)
names = nasty.filter(lambda text: bool(text.strip()))
times = st.sampled_from([TIME, MIDNIGHT])
ids = st.integers(1, 2**63 - 1)


def exported(rows: list[dict[str, Any]], row_type: Any) -> list[ImportReader]:
    """Return the readers of a list's CSV and JSON Lines."""
    page = json.dumps(rows)
    _, jsonl, as_csv = FORMATS
    text = as_csv.start(row_type) + as_csv.rows(row_type, page)
    table = [*csv.reader(io.StringIO(text.decode(), newline=""))]
    assert [len(cells) for cells in table] == [len(rows[0])] * (len(rows) + 1)
    return [read(text), read(jsonl.rows(row_type, page), is_csv=False)]


@given(
    st.lists(
        st.tuples(ids, names, nasty, times), min_size=1, unique_by=lambda row: row[0]
    )
)
@example([(1, "'=x", "''=x", TIME), (2, "=x", "'x", TIME)])
def test_exported_customers(rows: list[tuple[int, str, str, str]]) -> None:
    """What a list writes is read as it was, but for what its times leave out."""
    columns = ("id", "name", "address", "created_on")
    page = [dict(zip(columns, row, strict=True)) for row in rows]
    expected = [[name, at, f"{on[:19]}.000000+00:00", i] for i, name, at, on in rows]
    for reader in exported(page, CUSTOMER_ROWS):
        assert rows_of(reader) == expected


@given(
    st.lists(
        st.tuples(ids, names, ids, times, st.one_of(times, st.none()), ids),
        min_size=1,
        unique_by=lambda row: row[0],
    )
)
def test_exported_purchases(rows: list[tuple[int, str, int, str, Any, int]]) -> None:
    columns = [
        "purchase_id",
        "purchase_name",
        "quantity",
        "purchased_on",
        "last_updated_on",
        "customer_id",
    ]
    listed = [(i, n, q % 2**31 or 1, on, up, str(c)) for i, n, q, on, up, c in rows]
    page = [dict(zip(columns, row, strict=True)) for row in listed]
    expected = [[int(c), n, q, on, up, i] for i, n, q, on, up, c in listed]
    for reader in exported(page, PURCHASE_ROWS):
        assert rows_of(reader) == expected
        assert reader.rows.greatest_id == max(row[0] for row in rows)
        assert reader.rows.least_id == min(row[0] for row in rows)


def test_many_faults() -> None:
    reader = read(f"{HEADER}\n" + "x,,0\n" * 1000)
    assert reader.fault_count == 3000
    assert [fault.line for fault in reader.faults] == [i // 3 + 2 for i in range(100)]
    assert reader.faults[0] == FieldError("/customer_id", ID, 2)


@pytest.mark.parametrize(
    ("is_csv", "line"),
    [(True, "some,thing\n"), (True, '""x\n'), (False, "nothing\n"), (False, "{}\n")],
)
def test_memory_of_faults(is_csv: bool, line: str) -> None:
    """A file that is all faults takes no more memory than a block and 100 of them."""
    head = HEADER if is_csv else '{"quantity": 1}'
    content = f"{head}\n{line * 30_000}".encode()
    tracemalloc.start()
    try:
        reader = read(content, is_csv)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.fault_count >= 30_000
    assert peak < 1_500_000


pieces = st.sampled_from(['"', ",", ";", "\n", "\r", "1", "x", "\0", "{}", "é"])
heads = st.sampled_from(["", "\ufeff", f"{HEADER}\n", "sep=;\n", '{"quantity": 1}\n'])
texts = st.builds(lambda head, rest: head + "".join(rest), heads, st.lists(pieces))


@given(st.one_of(st.binary(), texts.map(str.encode)))
def test_any_bytes(content: bytes) -> None:
    """Nothing but a 400 is raised, and what is read has rows or faults."""
    for is_csv in (True, False):
        with suppress(ProblemError):
            reader = read(content, is_csv)
            assert reader.faults or reader.rows.lines
            lines: list[Any] = [fault.line for fault in reader.faults]
            assert lines == sorted(lines)
