"""Writes that a client may repeat: one for each idempotency key."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

import db
from api.conditional import idempotency_key, untagged_problem
from api.responses import RawResponse

Write = Callable[..., Awaitable[Any]]
"""`write` or `write_alone` of an engine."""


def write_once(
    request: web.Request,
    write: Write,
    body: msgspec.Struct,
    render: Callable[[db.Written[db.T]], db.StoredResponse],
    query: Callable[[*db.Ts], db.Unit[db.Written[db.T]]],
    *args: *db.Ts,
) -> Awaitable[RawResponse]:
    """Run a query, once for each idempotency key, and respond with what it made."""
    key = idempotency_key(request, body)
    return run_once(request, write, key, render, query, *args)


async def run_once(
    request: web.Request,
    write: Write,
    key: db.IdempotencyKey | None,
    render: Callable[[db.Written[db.T]], db.StoredResponse],
    query: Callable[[*db.Ts], db.Unit[db.Written[db.T]]],
    *args: *db.Ts,
) -> RawResponse:
    """Do the same with a key that was read already, if there is one."""
    if key is None:
        return respond(request, render(await write(query, *args)))
    return respond(request, await write(db.run_idempotent, key, render, query, *args))


def respond(request: web.Request, stored: db.StoredResponse) -> RawResponse:
    """Return the response to a write, or to its repetition. ProblemError 412."""
    if stored.replayed and (problem := untagged_problem(request)):
        raise problem  # no query has checked it
    lines = f"Location: {stored.location}\r\n" if stored.location else ""
    if stored.etag:
        lines += f"ETag: {stored.etag}\r\n"
    if stored.replayed:
        lines += "Idempotency-Replayed: true\r\n"
    if stored.change is not None:  # None in an answer that an older version kept
        lines += f"Change: {stored.change}\r\n"
    return RawResponse(stored.status, stored.body, lines)
