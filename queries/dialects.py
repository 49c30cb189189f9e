"""The pieces of SQL in which the engines differ, by name."""

import re

from storage.engine import Statement

PG_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00:00"')"""

PG_ROWS = "'[' || coalesce(string_agg(row_to_json(page)::text, ','), '') || ']'"


LAST_ID = "CASE WHEN is_called THEN last_value ELSE last_value - 1 END"
"""The last id that was drawn, of a sequence of PostgreSQL."""


def lock(table: str) -> str:
    """Return what a writer of PostgreSQL calls before it draws an id of a table.

    The lock blocks nobody. Its key is the last id that was drawn before it, so that who
    reads knows which ids may still come: those above the least key. Its first 16 bits
    are of the sequence. It is taken by a function of the database.
    """
    return f"lock_ids('{table}_id_seq')"


def horizon(table: str) -> str:
    """Return a SELECT of the last id before which none can come, and the last drawn.

    For PostgreSQL. The subquery depends on the sequence, so that this is read before
    the locks; rows must be read by a statement after it.
    """
    sequence = f"{table}_id_seq"
    return f"""
SELECT least(drawn, (
    SELECT min(((classid::bigint << 32) | objid::bigint) & ((1::bigint << 48) - 1))
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND drawn >= 0
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint >> 16) = ('{sequence}'::regclass::oid::bigint & 65535)
)), drawn
FROM (
    SELECT {LAST_ID} AS drawn FROM {sequence} OFFSET 0
) AS {table}"""


BRIEFLY = "50ms"
"""How long several rows wait for the lock that one of them needs."""


def calls(function: str, types: str, number: str) -> dict[str, str]:
    """Return the SQL that calls a function of PostgreSQL which inserts a row.

    For one row, and for several as a JSON array of arrays; `number` is the id.
    """
    kinds = types.split()
    call = f"SELECT {number}, number FROM {function}({{}}) WHERE {number} IS NOT NULL"
    values = [f"(v->>{place})::{kind}" for place, kind in enumerate(kinds)]
    # The rows come of the setting, so that it is there before them.
    several = f"""
WITH brief AS MATERIALIZED (
    SELECT set_config('lock_timeout', '{BRIEFLY}', true) AS timeout
)
SELECT place, added.* FROM brief,
    json_array_elements(CASE WHEN timeout IS NOT NULL THEN ?::json END)
        WITH ORDINALITY AS rows (v, place),
    LATERAL ({call.format(", ".join(values))}) AS added"""
    one = call.format(", ".join("?" for _ in kinds))
    return {"postgres": one, "several": several}


IMAGES = {
    "purchase_image": {
        "purchase_name": "p.purchase_name",
        "quantity": "p.quantity",
        "purchased_on": "p.date_created",
        "last_updated_on": "p.last_updated",
        "version": "p.version",
        "change": "p.change",
    },
    "customer_image": {
        "name": "c.name",
        "name_folded": "c.name_folded",
        "address": "c.address",
        "created_on": "c.date_created",
        "version": "c.version",
        "change": "c.change",
    },
}
"""The values of a row that its image holds, as JSON."""


def _image(values: dict[str, str], function: str, time: str = "{}") -> str:
    pairs = [
        f"'{name}', {time.format(value) if name.endswith('_on') else value}"
        for name, value in values.items()
    ]
    return f"{function}({', '.join(pairs)})"


FIELDS = {
    "purchase_name": "text",
    "quantity": "bigint",
    "purchased_on": "timestamptz",
    "last_updated_on": "timestamptz",
    "version": "bigint",
    "change": "bigint",
    "name": "text",
    "name_folded": "text",
    "address": "text",
}
"""The values of an image, with their types."""

SQLITE = {
    "ids": "SELECT value FROM json_each(?)",
    "ids_of_7": "SELECT value FROM json_each(?7)",
    "for_update": "",  # there is one writer at a time
    "with_ids": "",
    "drawn_id": "?5",
    "place_h": "h.id",
    "place_p": "p.id",
    "join_drawn": "",
    "cross_join": "CROSS JOIN",  # keeps the order of the tables
    "binary": "",
    "sums_as_json": """json_group_array(json_object(
        'key', key, 'label', label, 'purchases', purchases, 'quantity', quantity))""",
    "least": "min",
    "greatest": "max",
    "day": "substr(p.date_created, 1, 10)",
    "name_has": """CASE
        WHEN length(p.purchase_name) = length(CAST(p.purchase_name AS BLOB))
        THEN instr(lower(p.purchase_name), ?) > 0
        ELSE p.purchase_name IN (SELECT value FROM json_each(?)) END""",
    "name_beyond_ascii": """
        length(p.purchase_name) <> length(CAST(p.purchase_name AS BLOB))""",
    "only_purchases": """json_object(
        'purchases', coalesce(json_extract(before, '$.purchases'), 0))""",
    **{name: f"json_extract(h.before, '$.{name}')" for name in FIELDS},
    **{name: _image(values, "json_object") for name, values in IMAGES.items()},
}
POSTGRES = {
    "ids": "SELECT value::bigint FROM json_array_elements_text(?)",
    "ids_of_7": "SELECT value::bigint FROM json_array_elements_text(?7)",
    "for_update": "FOR UPDATE",
    "with_ids": "OVERRIDING SYSTEM VALUE",
    "drawn_id": "drawn.id",
    "place_h": "row_number() OVER (ORDER BY h.id)",
    "place_p": "row_number() OVER (ORDER BY p.id)",
    "join_drawn": """JOIN (
    SELECT value::bigint AS id, n
    FROM json_array_elements_text(?5) WITH ORDINALITY AS ids (value, n)
) AS drawn ON drawn.n = r.place""",
    "cross_join": "JOIN",
    "binary": 'COLLATE "C"',
    "sums_as_json": PG_ROWS,
    "least": "least",
    "greatest": "greatest",
    "day": "to_char(p.date_created AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "name_has": """CASE
        WHEN octet_length(p.purchase_name) = char_length(p.purchase_name)
        THEN strpos(lower(p.purchase_name COLLATE "C"), ?) > 0
        ELSE p.purchase_name IN (SELECT json_array_elements_text(?)) END""",
    "name_beyond_ascii": """
        octet_length(p.purchase_name) <> char_length(p.purchase_name)""",
    # Only of functions that are IMMUTABLE: shards run no others in an UPDATE.
    "only_purchases": """'{"purchases" : '
        || coalesce(before::json->>'purchases', '0') || '}'""",
    **{name: f"(h.before::json->>'{name}')::{kind}" for name, kind in FIELDS.items()},
    **{
        name: f"{_image(values, 'json_build_object', PG_TIME)}::text"
        for name, values in IMAGES.items()
    },
}
SHARED = {
    # Ranges of one customer do not overlap: only the next one can hide a purchase.
    "visible": """NOT EXISTS (
        SELECT 1 FROM (
            SELECT first FROM hidden
            WHERE hidden.customer_id = p.customer_id [AND hidden.customer_id]
                AND hidden.last >= p.id
            ORDER BY hidden.last LIMIT 1
        ) AS next WHERE next.first <= p.id
    )"""
}
"""Pieces of SQL by their names: `h` is a row of the history, `p` a purchase, `c` a
customer; FIELDS are read from the image of `h`."""


def numbered(sql: str) -> str:
    """Return SQL for PostgreSQL whose parameters `?1` are `$1`; others stay."""
    return sql.replace("?", "$") if "?1" in sql else sql


OWNER_CONDITION = re.compile(r"\[(AND|WHERE) ([\w.]+)\]")
"""A condition of a statement on one customer, as `[AND p.customer_id]`. Where each
table has one, tables that are spread by the customer are asked on one server alone."""


def fill_in(sql: str, pieces: dict[str, str], owner: str = "") -> str:
    """Return SQL whose pieces in braces are those of an engine.

    Conditions in brackets compare with `owner`, or are left out without one.
    """
    condition = rf"\1 \2 = {owner}" if owner else ""
    return OWNER_CONDITION.sub(condition, sql.format(**SHARED, **pieces))


def dialects(sql: str, owner: str = "") -> Statement:
    """Return a statement whose pieces are filled in, for each engine.

    Parameters are `?`, or `?1` where one is needed more than once.
    """
    postgres = numbered(fill_in(sql, POSTGRES, owner))
    return Statement(sqlite=fill_in(sql, SQLITE, owner), postgres=postgres)


def of_customer(sql: str, parameters: int) -> tuple[Statement, Statement]:
    """Return a statement for several customers, and one for a single customer.

    The customer is one more parameter of the second, after so many: so the number of
    customers that are given, none or one, says which.
    """
    return dialects(sql), dialects(sql, f"?{parameters + 1}")
