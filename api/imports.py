"""Imports: the file in the body of a request, checked and brought into the database."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

import db
from api.conditional import idempotency_key, untagged_check, untagged_problem
from api.import_file import MAX_ROWS, ImportReader
from api.listing import BOM
from api.repeatable import respond, run_once
from api.replies import imported, imported_response
from api.request_body import check_media_type, read_content, switch
from api.responses import (
    ENCODER,
    MAX_ERRORS,
    FieldError,
    ProblemError,
    RawResponse,
    count_of_faults,
    ok,
)

MAX_FILE = 16 * 1024 * 1024
CSV, JSONL_TYPES = "text/csv", ("application/jsonl", "application/x-ndjson")
ANY_FILE = "application/octet-stream"
"""What tools send that know no CSV, for whom the description names it."""
MEDIA_TYPES, NAMED_TYPES = {CSV, *JSONL_TYPES, ANY_FILE}, (CSV, JSONL_TYPES[0])
"""Those of a file, and those that a refusal names."""
FILES, TURN_SECONDS = 4, 5.0
"""How many files are in memory at a time, and how long others wait for that."""
SLICE_ROWS = 100
"""After so many rows other requests have their turn."""
ATTEMPTS = 3
"""How often to look at the database, where others change customers of the file."""

T = TypeVar("T")
Report = Callable[..., Awaitable[Any]]
"""`report` of an engine, perhaps in the turn of a caller."""
Progress = Callable[[int], object]
"""Is told of so many more rows."""


class Imports:
    """Lets some files be read at a time, and one be written."""

    def __init__(self) -> None:
        self.writing = asyncio.Lock()
        """What is staged is of one file at a time."""
        self._free = asyncio.Semaphore(FILES)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to read a file. OverloadedError."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise db.OverloadedError("too many imports are waiting", 5) from None
        try:
            yield
        finally:
            self._free.release()


IMPORTS: web.AppKey[Imports] = web.AppKey("imports", Imports)


def is_csv(media_type: str, content: bytes) -> bool:
    """Return whether a file is CSV, and not JSON Lines."""
    if media_type != ANY_FILE:
        return media_type == CSV
    return not content[:100].removeprefix(BOM).lstrip().startswith(b"{")


def read_named(name: str) -> tuple[bytes, bool]:
    """Return a file by its name, and whether it is CSV. StartupError."""
    if not name.lower().endswith((".csv", ".jsonl")):
        raise db.StartupError(f"{name}: import takes files named .csv or .jsonl")
    try:
        return Path(name).read_bytes(), name.lower().endswith(".csv")
    except OSError as exc:
        raise db.StartupError(f"{name}: {exc.strerror}") from exc


async def check_file(
    content: bytes, as_csv: bool, progress: Progress = lambda rows: None
) -> ImportReader:
    """Return the rows and the faults of a file. ProblemError 400."""
    reader, rows = ImportReader(content, as_csv, db.now()), 0
    while reader.step():
        progress(len(reader.rows.lines) - rows)
        rows = len(reader.rows.lines)
        await asyncio.sleep(0)
    progress(len(reader.rows.lines) - rows)
    return reader


async def look(
    engine: db.Engine, report: Report, reader: ImportReader
) -> db.ImportRows:
    """Return the rows as the database needs them. ProblemError 422 with all faults."""
    rows = reader.rows
    tip = await engine.read(db.read_tip)
    faults, number = reader.faults, reader.fault_count
    known: dict[int, int] = {}
    if rows.kind == "customers":
        pairs = [chunk[1:-1] for chunk in rows.chunks]  # and what else a row has
        known = await report(db.find_pairs, _array(pairs))
    elif rows.by_pair:
        known = await report(db.find_pairs, _array([*rows.pairs]))
    else:
        missing = await _find_missing(report, reader)
        number += len(missing)
        faults = sorted([*faults, *missing[:MAX_ERRORS]], key=attrgetter("line"))
    if number:
        raise invalid_file(faults[:MAX_ERRORS], number)
    if rows.kind == "purchases" and not rows.by_pair:
        new = db.NewCustomers((), 0, frozenset())
    else:
        new = await _new_customers(reader, known)
    owners = [known.get(place) for place in range(len(rows.pairs))]
    return db.ImportRows(
        tip,
        new,
        [chunk.decode() for chunk in rows.chunks] * (rows.kind == "purchases"),
        rows.customers,
        owners if rows.by_pair else None,
        bool(rows.has_ids),
        rows.least_id,
        rows.greatest_id,
    )


def _array(texts: list[bytes]) -> str:
    """Return an array of JSON texts."""
    return f"[{b','.join(texts).decode()}]"


async def _find_missing(report: Report, reader: ImportReader) -> list[FieldError]:
    """Return the faults of the rows whose customer is not there."""
    customers = reader.rows.customers
    ids = ENCODER.encode([*{*customers}]).decode()
    missing = {*await report(db.find_missing_customers, ids)}
    if not missing:
        return []
    detail = "There is no such customer."
    return [
        FieldError("/customer_id", detail, line)
        for customer, line in zip(customers, reader.rows.lines, strict=True)
        if customer in missing
    ]


async def _new_customers(
    reader: ImportReader, known: dict[int, int]
) -> db.NewCustomers:
    """Return the customers of a file who are not there."""
    rows = reader.rows
    if rows.kind == "customers":
        given = (row for chunk in rows.chunks for row in json.loads(chunk))
    else:
        given = ([*json.loads(pair), None, None] for pair in rows.pairs)
    new: list[Any] = []
    for place, (name, address, created_on, row_id) in enumerate(given):
        if place not in known:
            new.append((name, db.fold_name(name), address, created_on, row_id))
        if place % SLICE_ROWS == 0:
            await asyncio.sleep(0)
    chunks = [
        ENCODER.encode(new[start : start + db.CHUNK_ROWS]).decode()
        for start in range(0, len(new), db.CHUNK_ROWS)
    ]
    pairs = frozenset((row[0], row[2] or "") for row in new)
    return db.NewCustomers(chunks, len(new), pairs)


def invalid_file(faults: list[FieldError], number: int) -> ProblemError:
    """Return a 422 that names the first faults of a file, and how many there are."""
    found = count_of_faults(number)
    if number > MAX_ROWS:  # nobody has looked for the others
        found = f"more than {found}"
    detail = f"The file is not valid, see errors: {found}."
    return ProblemError(422, detail, faults)


def explain(problem: ProblemError) -> str:
    """Return a problem of a file with its faults, a line each."""
    faults = [
        (f"line {fault.line}", fault.pointer.removeprefix("/"), fault.detail)
        for fault in problem.errors
    ]
    return "\n".join([problem.detail, *(": ".join(filter(None, f)) for f in faults)])


async def write_rows(
    engine: db.Engine,
    report: Report,
    imports: Imports,
    reader: ImportReader,
    write: Callable[[db.ImportRows], Awaitable[T]],
    progress: Progress = lambda rows: None,
) -> T:
    """Stage the rows of a file and write them; return the result of `write`.

    ProblemError 422 with all faults, UnavailableError.
    """
    for _ in range(ATTEMPTS):
        rows = await look(engine, report, reader)
        try:
            async with imports.writing:
                for place, chunk in enumerate(rows.chunks):
                    await engine.write(db.stage_rows, place * db.CHUNK_ROWS, chunk)
                    progress(min(db.CHUNK_ROWS, len(rows.owners)))
                return await write(rows)
        except db.StaleError:
            continue
    raise db.UnavailableError("customers of the file are being changed: try again")


async def answer(
    request: web.Request, engine: db.Engine, report: Report, author: db.Author
) -> web.StreamResponse:
    """Import the file in the body of a request, or say what that would do."""
    imports = request.app[IMPORTS]
    media_type = check_media_type(request, MEDIA_TYPES, NAMED_TYPES)
    dry_run = switch(request, "dry_run")
    async with imports.turn():
        content = await read_content(request, MAX_FILE)
        key = idempotency_key(request, content)
        if key is not None and not dry_run:
            stored = await engine.read(db.find_response, key)
            if stored is not None:
                return respond(request, stored)
        reader = await check_file(content, is_csv(media_type, content))
        if dry_run:
            rows = await look(engine, report, reader)
            if problem := untagged_problem(request):
                raise problem
            found = db.Imported(None, rows.customers.size, len(rows.owners))
            return ok(imported(found))

        def write(rows: db.ImportRows) -> Awaitable[RawResponse]:
            values = rows, author, untagged_check(request)
            alone = engine.write_alone, key, imported_response, db.import_rows
            return run_once(request, *alone, *values)

        return await write_rows(engine, report, imports, reader, write)
