"""A case: a request, and the reply that it must get."""

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from checks.support.server_process import request_bytes

MARK = f"mk{secrets.token_hex(6)}"
"""Stands in the inputs of this run and occurs nowhere else."""
MEMORY_LIMIT = 32.0
"""How many MiB a case may add to the server's resident memory at its peak."""
SECONDS_LIMIT = 5.0
"""How long an answer may take on the slowest machine; they take milliseconds."""
IDLE_CPU = 0.1
"""How many seconds of CPU a second the server may use when nobody asks anything."""
JSON_TYPE = "application/json"
NO_REPLY = 0
CUSTOMERS = "/api/v1/customer"
PURCHASES = "/api/v1/purchase/1"
"""Of customer 1, to list, add and delete; and purchase 1 itself, to update."""
CALLER = "/api/v1/caller"
CHANGES = "/api/v1/changes"
OTHERS = "/api/v1/purchase/2"
SPARE = (2, 3, 4)
OTHERS_PURCHASE = 5
PURCHASE = f'{{"purchase_name": "{MARK}", "quantity": 1}}'


class Case(NamedTuple):
    """One input, the statuses that are right, and what else the answer must say."""

    method: str
    request: bytes | Iterable[bytes]
    right: tuple[int, ...]
    pointers: frozenset[str] = frozenset()
    field: tuple[str, str] | None = None
    deleted: int | None = None
    hang_up: bool = False
    rows: int | None = None
    """By how much a success changes the number of rows, where it does not say so."""
    data: object = None
    """What the answer tells, None for anything."""


def http(
    method: str,
    target: str,
    body: str | bytes | None,
    *right: int,
    headers: Iterable[tuple[str, str]] = (),
    pointers: Iterable[str] = (),
    field: tuple[str, str] | None = None,
    deleted: int | None = None,
    rows: int | None = None,
    data: object = None,
) -> Case:
    """Return a case that is well-formed HTTP."""
    content = body.encode() if isinstance(body, str) else body
    request = request_bytes(method, target, content, headers)
    case = Case(method, request, right, frozenset(pointers), field, deleted)
    return case._replace(rows=rows, data=data)
