"""The faults of files to import, each with its line and its column."""

import json

import pytest

from api.responses import ProblemError
from tests.import_support import (
    HEADER,
    ID,
    MISSING,
    NOW,
    NUMBER,
    TOO_LONG,
    UNCLOSED,
    faults_of,
    faults_with,
    read,
    rows_of,
)


@pytest.mark.parametrize(
    ("header", "faults"),
    [
        ("", [("", "The file has no rows.")]),
        ("\n;;;\n", [("", "The file has no rows.")]),
        (HEADER, [("", "The file has no rows.")]),
        (
            "customer_id;quantity\n1;2",
            [("/purchase_name", MISSING + "customer_id, quantity.")],
        ),
        (
            "purchase_name,quantity\nx,1",
            [("/customer_id", MISSING + "purchase_name, quantity.")],
        ),
        (
            "customer_name,quantity\nx,1",
            [
                ("/customer_address", MISSING + "customer_name, quantity."),
                ("/purchase_name", MISSING + "customer_name, quantity."),
            ],
        ),
        ("id,name\n1,x", [("/address", MISSING + "id, name.")]),
        (f"{HEADER},Quantity\n1,x,1,1", [("/quantity", "The column is there twice.")]),
        (f"{HEADER},,purchased_on\n", [("", "Column 4 has no name.")]),
        (
            f"{HEADER},a/b\n1,x,1,1",
            [
                (
                    "/a~1b",
                    "There is no such column. Those that go together are customer_id, "
                    "purchase_name, quantity, purchased_on, last_updated_on, "
                    "purchase_id.",
                )
            ],
        ),
        (
            f"{HEADER},customer_name\n",
            [("/customer_name", "It does not go with customer_id.")],
        ),
        (
            "foo,bar\n1,2",
            [
                (
                    "",
                    "Expected the columns customer_id, or customer_name and "
                    "customer_address, with purchase_name and quantity; or those of "
                    "customers alone. The file has foo, bar.",
                )
            ],
        ),
        (f'"{HEADER}', [("", UNCLOSED)]),
        ("x" * 40000, [("", TOO_LONG)]),
    ],
)
def test_header(header: str, faults: list[tuple[str, str]]) -> None:
    assert faults_of(read(header)) == [(1, *fault) for fault in faults]


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        *((cell, NUMBER) for cell in ("", "x", "04", "4.5", "1_0", "+4", "٤", "-1")),
        *((cell, NUMBER) for cell in ("4,0", "1,000", "4e-1", "1e99", "true", "'4")),
        ("1" * 41, NUMBER),
        ("0", "Expected int >= 1."),
        ("2147483648", "Expected int <= 2147483647."),
    ],
)
def test_no_quantity(cell: str, detail: str) -> None:
    assert faults_with(HEADER, f'1,Tea,"{cell}"') == [("/quantity", detail)]


@pytest.mark.parametrize("cell", ["", "0", "x", "1.5", "-1", "9223372036854775808"])
def test_no_id(cell: str) -> None:
    assert faults_with(HEADER, f"{cell},Tea,1") == [("/customer_id", ID)]


def test_shortened_id() -> None:
    """A spreadsheet showed the id as 1.23457E+11, and saved what it showed."""
    detail = "The number is shortened, as spreadsheets do: write all of its digits."
    for cell in ("1.23457E+11", "1e12"):
        assert faults_with(HEADER, f"{cell},Tea,1") == [("/customer_id", detail)]
    assert rows_of(read(f"{HEADER}\n4e0,Tea,1e3")) == [
        [4, "Tea", 1000, None, None, None]
    ]


@pytest.mark.parametrize(
    ("row", "faults"),
    [
        (
            "1, ,x",
            [
                ("/purchase_name", "Expected text that is not only white space."),
                ("/quantity", NUMBER),
            ],
        ),
        ("1,a\0b,1", [("/purchase_name", "Expected text without U+0000.")]),
        (
            "1," + "é" * 201 + ",1",
            [("/purchase_name", "Expected str of length <= 200.")],
        ),
        ("1,Tea", [("", "Expected 3 cells, not 2.")]),
        ("1,Tea,1,", [("", "Expected 3 cells, not 4.")]),
        (
            '1,"Tea"x,1',
            [
                (
                    "",
                    "A closing quote stands before the end of a cell: a quote within "
                    "a quoted cell is written twice.",
                )
            ],
        ),
        ('1,"Tea,1', [("", UNCLOSED)]),
        ("1," + "x" * 32768, [("", TOO_LONG)]),
    ],
)
def test_row(row: str, faults: list[tuple[str, str]]) -> None:
    assert faults_with(HEADER, row) == faults


@pytest.mark.parametrize("column", ["purchased_on", "last_updated_on"])
def test_times(column: str) -> None:
    header = f"{HEADER},{column}"
    for cell, detail in (
        ("2026-01-01T00:00:00.000001Z", f"It is later than now, which is {NOW}."),
        ("2022-04-09T12:43:22", "It has no time zone"),
        ("09/04/2022", "Such a date can be read in two ways"),
        ("2022-02-30", "There is no such date"),
        ("2022-04-09T00:00:00." + "0" * 100 + "Z", "Expected a time of at most 100"),
    ):
        [(pointer, found)] = faults_with(header, f"1,Tea,1,{cell}")
        assert pointer == f"/{column}"
        assert found.startswith(detail)
    assert not faults_with(header, "1,Tea,1,2026-01-01")


def test_cells_without_a_column() -> None:
    for rest, cells in ((";", 5), (";x", 5), (";;", 6)):
        faults = faults_with(f"{HEADER.replace(',', ';')};;", f"1;Tea;1;{rest}")
        detail = f"Expected 3 cells, not {cells}."
        assert faults == ([] if rest == ";" else [("", detail)])


def test_separator_in_quotes() -> None:
    """It is none, and the header is read with the one outside."""
    for name in ("a;b;c;d", '"";;;;""'):
        [(line, pointer, _)] = faults_of(read(f'{HEADER},"{name}"'))
        assert (line, pointer) == (1, "/" + name.replace('""', '"'))


def test_ids_of_some_rows() -> None:
    for first, second, detail in (
        ("1", "", "Expected an id, since the first row has one."),
        ("", "1", "Expected none, since the first row has none."),
        ("1", "1.0", "A row before has this id."),
        ("1", "x", ID),
    ):
        for header, rest in (
            (f"{HEADER},purchase_id", "1,Tea,1,"),
            ("name,address,id", "a,,"),
        ):
            faults = faults_of(read(f"{header}\n{rest}{first}\n{rest}{second}\n"))
            assert faults == [(3, f"/{header.rpartition(',')[2]}", detail)]


FAULT = ("/customer_id", ID)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines(end: str) -> None:
    """A fault stands at the line where an editor shows the beginning of its row."""
    content = end.join(
        [HEADER, "", '1,"a', "b", '",1', "x,b,1", '2,"c', '",0', "", "2,d,1"]
    )
    reader = read(content)
    assert faults_of(reader) == [
        (6, "/customer_id", ID),
        (7, "/quantity", "Expected int >= 1."),
    ]
    assert [*reader.rows.lines] == [3, 10]
    assert json.loads(reader.rows.chunks[0])[0][1] == f"a{end}b{end}"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("number", [2, 10_000])
def test_rows_behind_an_unclosed_cell(end: str, number: int) -> None:
    """They are read for themselves, in a file of any length."""
    rows = [HEADER, '1,"a,1', *["1,b,1"] * number, "x,c,1", ""]
    reader = read(end.join(rows))
    first, second = faults_of(reader)
    assert first[:2] == (2, "")
    assert first[2].startswith(UNCLOSED[:-1])
    assert second == (number + 3, *FAULT)
    assert [*reader.rows.lines] == [*range(3, number + 3)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_behind_a_long_line(end: str) -> None:
    reader = read(end.join([HEADER, "1,a,1", "x" * 70_000, "1,b,1", "x,c,1"]))
    assert faults_of(reader) == [(3, "", TOO_LONG), (5, *FAULT)]
    assert [*reader.rows.lines] == [2, 4]


def test_lines_around_a_block() -> None:
    """A CRLF is one end of a line, wherever the file is cut to be read."""
    for size in range(32755, 32775):
        for end in ("\r\n", "\r", "\n"):
            row = f"1,{'y' * 95},1{end}"
            number, rest = divmod(size - len(HEADER + end), len(row))
            pad = f"1,{'y' * rest},1{end}" if rest else ""
            content = HEADER + end + row * number + pad + f"x,a,1{end}x,b,1{end}"
            line = content.count(end) - 1
            found = faults_of(read(content))
            assert found == [(line, *FAULT), (line + 1, *FAULT)]


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("nothing", [("", "The line is not JSON.")]),
        ('{"quantity": NaN}', [("", "The line is not JSON.")]),
        ("[" * 10_000, [("", "The line is not JSON.")]),
        ("[1]", [("", "Expected an object.")]),
        ("x" * 40_000, [("", TOO_LONG)]),
        (
            '{"customer_id": true, "quantity": "4", "x": 1}',
            [
                ("/customer_id", "Expected int | str, got bool."),
                ("/purchase_name", "It is missing."),
                ("/quantity", "Expected int, got str."),
                ("/x", "There is no such field."),
            ],
        ),
        (
            '{"customer_id": "x", "purchase_name": "\\ud800", "quantity": true,'
            ' "purchased_on": "2027-01-01"}',
            [
                ("/purchase_name", "A lone surrogate is not text."),
                ("/quantity", "Expected int, got bool."),
                ("/customer_id", ID),
                ("/purchased_on", f"It is later than now, which is {NOW}."),
            ],
        ),
        (
            '{"customer_id": 0, "purchase_name": "\\u0000", "quantity": 4.5,'
            ' "last_updated_on": 7, "purchase_id": "1"}',
            [
                ("/purchase_name", "Expected text without U+0000."),
                ("/quantity", "Expected int, got float."),
                ("/last_updated_on", "Expected str | null, got int."),
                ("/purchase_id", "Expected int | null, got str."),
                ("/customer_id", ID),
            ],
        ),
        (
            '{"customer_id": "01", "purchase_name": "x", "quantity": 1e400}',
            [("/quantity", "Expected int, got float."), ("/customer_id", ID)],
        ),
        (
            '{"customer_id": 1, "purchase_name": "x", "quantity": 1%s}' % ("0" * 9000),
            [("/quantity", "Expected int <= 2147483647.")],
        ),
    ],
)
def test_line_of_json(line: str, faults: list[tuple[str, str]]) -> None:
    good = '{"customer_id": 1, "purchase_name": "Tea", "quantity": 1}'
    reader = read(f"{good}\n{line}\n{good}\n", is_csv=False)
    assert faults_of(reader) == [(2, *fault) for fault in faults]
    assert [*reader.rows.lines] == [1, 3]


def test_first_line_of_json() -> None:
    for content, faults in (
        ("\n", [(1, "", "The file has no rows.")]),
        ("\n7\n{}\n{}\n", [(2, ""), (3, "")]),
        ('{"customer_id": 1, "customer_name": "x"}', [(1, "/customer_name")]),
    ):
        found = faults_of(read(content, is_csv=False))
        assert [fault[: len(faults[0])] for fault in found] == faults


@pytest.mark.parametrize("is_csv", [True, False])
def test_other_encodings(is_csv: bool) -> None:
    row = f"{HEADER}\n1,é,1\n" if is_csv else '{"quantity": 1}\n{"é": 1}'
    for content, line in (
        (row.encode("latin-1"), 2),
        (row.encode("utf-16"), 1),
        (b"\xfe\xff" + row.encode("utf-16-be"), 1),
    ):
        with pytest.raises(ProblemError, match="save it as CSV UTF-8") as caught:
            read(content, is_csv)
        assert caught.value.status == 400
        assert f"see line {line}." in caught.value.detail
