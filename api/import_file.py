"""Reads the file of an import, little by little: its rows, and its faults by line."""

import csv
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from operator import itemgetter
from time import perf_counter
from typing import Any

import msgspec

import db
from api.import_columns import (
    CHECKED_COLUMNS as CHECKED,
    PURCHASES_BY_ID,
    Layout,
    Values,
    check_header,
    choose_layout,
    csv_values,
    json_values,
)
from api.import_csv import Lines, Records, not_utf8
from api.request_body import find_errors, parse, whole
from api.responses import ENCODER, MAX_ERRORS, FieldError, ProblemError
from api.schemas import Body

MAX_ROWS = 250_000
"""The most rows of a file, with the faults: others wait while all are written."""


TOO_MANY = f"A file has at most {MAX_ROWS} rows: split it."


class ImportedRows:
    """The rows of a file, compactly: 16 MiB may hold 2,500,000."""

    def __init__(self, layout: Layout) -> None:
        self.kind = layout.kind
        self.by_pair = layout.by_pair
        """Whether the customer of a purchase is an index of `pairs`, and no id."""
        self.chunks: list[bytes] = []
        """JSON arrays of up to 2,000 rows, each an array of `[customer, purchase_name,
        quantity, purchased_on, last_updated_on, purchase_id]`, or of `[name, address,
        created_on, id]`; a null for `purchased_on` or `created_on` stands for now."""
        self.lines = array("I")
        """Where each row begins."""
        self.customers = array("q")
        """The customer of each purchase."""
        self.pairs: dict[bytes, int] = {}
        """The index of each customer that purchases name, by the JSON array `[name,
        address]`, in the order of the indices."""
        self.has_ids: bool | None = None
        """Whether the rows have ids of their own, None without rows."""
        self.least_id = self.greatest_id = 0
        self._seen: set[int | bytes] = set()
        self._rows: list[Any] = []

    def add(self, line: int, values: tuple[Any, ...]) -> str:
        """Add a row of the columns of its struct; return what forbids it, if anything.

        A customer without an id who is there already is not added again.
        """
        row_id = values[-1]
        if self.has_ids is None:
            self.has_ids = row_id is not None
        if row_id is not None:
            if detail := self._add_id(row_id):
                return detail
        elif self.has_ids:
            return "Expected an id, since the first row has one."
        if self.by_pair:
            pair = ENCODER.encode(values[:2])
            values = self.pairs.setdefault(pair, len(self.pairs)), *values[2:]
        if self.kind == "purchases":
            self.customers.append(values[0])
        elif row_id is None:
            pair = ENCODER.encode(values[:2])
            if pair in self._seen:
                return ""
            self._seen.add(pair)
        self.lines.append(line)
        self._rows.append(values)
        if len(self._rows) == db.CHUNK_ROWS:
            self._flush()
        return ""

    def finish(self) -> None:
        """Complete `chunks`, and free what only adding needs."""
        if self._rows:
            self._flush()
        self._seen.clear()

    def _flush(self) -> None:
        self.chunks.append(ENCODER.encode(self._rows))
        self._rows = []

    def _add_id(self, row_id: int) -> str:
        if not self.has_ids:
            return "Expected none, since the first row has none."
        if row_id in self._seen:
            return "A row before has this id."
        self._seen.add(row_id)
        if row_id > self.greatest_id:
            self.greatest_id = row_id
        if row_id < self.least_id or not self.least_id:
            self.least_id = row_id
        return ""


class ImportReader:
    """The rows and the faults of a file, after as many steps as it takes.

    `now` is as the tables hold times. ProblemError 400 where the file is not UTF-8.
    """

    def __init__(self, content: bytes, is_csv: bool, now: str) -> None:
        self.rows = ImportedRows(PURCHASES_BY_ID)
        self.faults: list[FieldError] = []
        """The first 100, by line."""
        self.fault_count = 0
        read = self._read_csv if is_csv else self._read_jsonl
        self._reading = read(content, now)

    def step(self, seconds: float = 0.002) -> bool:
        """Read for some time; return whether there may be more. ProblemError 400."""
        end = perf_counter() + seconds
        for _ in self._reading:
            if len(self.rows.lines) + self.fault_count > MAX_ROWS:
                self.add_fault(
                    self.rows.lines[-1] if self.rows.lines else 1, "", TOO_MANY
                )
                break
            if perf_counter() >= end:
                return True
        self.rows.finish()
        if not self.rows.lines and not self.fault_count:
            self.add_fault(1, "", "The file has no rows.")
        return False

    def add_fault(self, line: int, pointer: str, detail: str) -> None:
        """Count a fault, and keep it if it is among the first."""
        self.fault_count += 1
        if self.fault_count <= MAX_ERRORS:
            self.faults.append(FieldError(pointer, detail, line))

    def _add(self, line: int, layout: Layout, values: tuple[Any, ...]) -> None:
        if detail := self.rows.add(line, values + layout.padding):
            self.add_fault(line, f"/{layout.struct.__struct_fields__[-1]}", detail)

    def _read_csv(self, content: bytes, now: str) -> Iterator[bool]:
        """Read a record for each item that is taken."""
        records = Records(content)
        found = self._iterate(records)
        header: list[str] = []
        while not any(header):
            header = next(found, [""])
            yield True
            if self.fault_count or header == [""]:
                return
        columns = _columns_of(header)
        layout = self._check_header(records.line, columns)
        if layout is None:
            return
        fields, size = layout.struct.__struct_fields__, len(columns)
        pick = itemgetter(*[columns.index(f) if f in columns else size for f in fields])
        read = [csv_values(column, now) for column in columns]
        for cells in found:
            yield True
            if len(cells) != size and not self._cut(records.line, cells, header, size):
                continue
            try:
                values: list[Any] = [
                    of[cell] for of, cell in zip(read, cells, strict=True)
                ]
            except ValueError:
                self._find_faults(records.line, zip(columns, read, cells, strict=True))
                continue
            values.append(None)  # the value of a column that is not there
            self._add(records.line, layout, pick(values))

    def _iterate(self, records: Records) -> Iterator[list[str]]:
        """Yield records, empty ones in the place of those that cannot be read."""
        while True:
            try:
                cells = next(records)
            except StopIteration:
                return
            except ValueError as exc:
                self.add_fault(records.line, "", str(exc))
                cells = []
            yield cells if any(cells) else []

    def _cut(self, line: int, cells: list[str], header: list[str], size: int) -> bool:
        """Cut off the cells of columns without names; return whether the rest fits."""
        if cells and not (size < len(cells) <= len(header) and not any(cells[size:])):
            self.add_fault(line, "", f"Expected {size} cells, not {len(cells)}.")
            return False
        del cells[size:]
        return bool(cells)

    def _check_header(self, line: int, columns: list[str]) -> Layout | None:
        layout = self._choose_layout(line, columns)
        errors = check_header(layout, columns) if layout else []
        for error in errors:
            self.add_fault(line, error.pointer, error.detail)
        return None if errors else layout

    def _choose_layout(self, line: int, columns: list[str]) -> Layout | None:
        try:
            layout = choose_layout(columns)
        except ValueError as exc:
            self.add_fault(line, *exc.args)
            return None
        self.rows = ImportedRows(layout)
        return layout

    def _find_faults(self, line: int, cells: Iterable[tuple[str, Values, Any]]) -> None:
        for column, of, cell in cells:
            try:
                of[cell]
            except ValueError as exc:
                self.add_fault(line, f"/{column}", str(exc))

    def _read_jsonl(self, content: bytes, now: str) -> Iterator[bool]:
        """Read a line for each item that is taken."""
        lines, layout = Lines(content), None
        while True:
            yield True
            lines.start, number = lines.offset, lines.number + 1
            try:
                line = next(lines)
            except StopIteration:
                return
            except csv.Error as exc:
                self.add_fault(number, "", str(exc))
                continue
            if line.isspace():
                continue
            if layout is None:
                fields = self._parse_line(number, line)
                if fields is None:
                    continue
                layout = self._choose_layout(number, [*fields])
                if layout is None:
                    return
                decoder = msgspec.json.Decoder(layout.struct)
                names = [*enumerate(layout.struct.__struct_fields__)]
                read = [(i, json_values(f, now)) for i, f in names if f in CHECKED]
            try:
                values = _check(decoder.decode(line), read)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                if (row := self._read_slowly(number, line, layout, read)) is None:
                    continue
                values = row
            self._add(number, layout, tuple(values))

    def _read_slowly(
        self, line: int, text: bytes, layout: Layout, read: list[tuple[int, Values]]
    ) -> list[Any] | None:
        """Return the values of a line with numbers such as 4.0, or find its faults."""
        fields = self._parse_line(line, text)
        if fields is None:
            return None
        fields |= {name: whole(value) for name, value in fields.items()}
        names = layout.struct.__struct_fields__
        with suppress(msgspec.ValidationError, ValueError):
            return _check(msgspec.convert(fields, layout.struct), read)
        errors = find_errors(fields, layout.struct)
        for error in errors:
            self.add_fault(line, error.pointer, error.detail)
        wrong = {error.pointer.removeprefix("/") for error in errors}
        checked = [(names[index], of) for index, of in read]
        good = [(n, of) for n, of in checked if n in fields and n not in wrong]
        self._find_faults(line, [(name, of, fields[name]) for name, of in good])
        return None

    def _parse_line(self, line: int, text: bytes) -> dict[str, Any] | None:
        try:
            return parse(text)
        except ProblemError as exc:
            detail = "Expected an object."
            if exc.status == HTTPStatus.BAD_REQUEST:
                detail = "The line is not JSON."
        try:
            text.decode()
        except UnicodeDecodeError:
            raise not_utf8(line) from None
        self.add_fault(line, "", detail)
        return None


def _columns_of(header: list[str]) -> list[str]:
    """Return the names in a header, without the empty ones at its end."""
    columns = [cell.strip().lower() for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    return columns


def _check(row: Body, read: list[tuple[int, Values]]) -> list[Any]:
    """Return the values of a line, checked beyond their types. ValueError."""
    values = [*msgspec.structs.astuple(row)]
    for index, of in read:
        values[index] = of[values[index]]
    if values[1] is None:  # an address that a list shows as null
        values[1] = ""
    return values
