"""Staging of the rows of an import, on SQLite: tables of the connection that writes."""

from storage.engine import Statement, Unit

CREATE_STAGE = Statement(
    sqlite="""
CREATE TEMP TABLE IF NOT EXISTS import_rows (
    place INTEGER PRIMARY KEY, customer, purchase_name, quantity, purchased_on,
    last_updated_on, id)"""
)
CLEAR_STAGE = Statement(sqlite="DELETE FROM temp.import_rows")
CREATE_OWNERS = Statement(
    sqlite="""
CREATE TEMP TABLE IF NOT EXISTS import_owners (place INTEGER PRIMARY KEY, id)"""
)
CLEAR_OWNERS = Statement(sqlite="DELETE FROM temp.import_owners")
STAGE_ROWS = Statement(
    sqlite="""
INSERT INTO temp.import_rows SELECT ? + key,
    json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?)"""
)
COUNT_STAGED = Statement(sqlite="SELECT count(*) FROM temp.import_rows")


def stage_rows(place: int, chunk: str) -> Unit[None]:
    """Stage a chunk of purchases from a place on, the first clearing what was left."""
    if place == 0:
        yield from clear_stage()
    yield from create_stage()
    yield STAGE_ROWS, (place, chunk)


def clear_stage() -> Unit[None]:
    """Forget what was staged."""
    yield from create_stage()
    for statement in (CLEAR_STAGE, CLEAR_OWNERS):
        yield statement, ()


def create_stage() -> Unit[None]:
    """Create the tables: they are gone when the connection was opened anew."""
    for statement in (CREATE_STAGE, CREATE_OWNERS):
        yield statement, ()
