"""Reads files to import, for the tests of what is found in them."""

import json
from typing import Any

from api.import_file import ImportReader

NOW = "2026-01-01 00:00:00.000000+00:00"
TIME = "2022-04-09 12:43:22.237526+00:00"
MIDNIGHT = "2022-04-09 00:00:00.000000+00:00"
HEADER = "customer_id,purchase_name,quantity"
ID = "Expected a whole number, 1 to 9223372036854775807."
NUMBER = "Expected a whole number such as 4."
MISSING = "The column is missing. The file has "
TOO_LONG = "Expected at most 32768 bytes in a row."
UNCLOSED = "A quoted cell is not closed."


def read(content: str | bytes, is_csv: bool = True) -> ImportReader:
    """Return the reader of a file, at its end."""
    content = content.encode() if isinstance(content, str) else content
    reader = ImportReader(content, is_csv, NOW)
    while reader.step(0):
        pass
    return reader


def rows_of(reader: ImportReader) -> list[list[Any]]:
    """Return the rows of a file without faults."""
    assert not reader.faults
    rows = [row for chunk in reader.rows.chunks for row in json.loads(chunk)]
    assert len(rows) == len(reader.rows.lines)
    return rows


def pairs_of(reader: ImportReader) -> list[list[str]]:
    """Return the name and address of each customer without an id."""
    assert [*reader.rows.pairs.values()] == [*range(len(reader.rows.pairs))]
    return [json.loads(pair) for pair in reader.rows.pairs]


def faults_of(reader: ImportReader) -> list[tuple[int, str, str]]:
    """Return all faults of a file that has at most 100."""
    assert reader.fault_count == len(reader.faults)
    faults: list[Any] = reader.faults
    return [(fault.line, fault.pointer, fault.detail) for fault in faults]


def faults_with(header: str, row: str) -> list[tuple[str, str]]:
    """Return the faults of the only row of a file."""
    faults = faults_of(read(f"{header}\n{row}\n"))
    assert {line for line, _, _ in faults} <= {2}
    return [fault[1:] for fault in faults]
