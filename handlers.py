"""What each URL means: one short handler a route, and the one table of routes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web

import bodies
import db
from bodies import MAX_ID, Deletion, NewCustomer, NewPurchase, PurchaseChanges
from replies import (
    ENCODER,
    FIXED_HEADERS,
    JSON,
    REQUEST_ID,
    Problem,
    Reply,
    invalid,
    ok,
)

DATABASE: web.AppKey[db.Engine] = web.AppKey("database", db.Engine)

VERSION = "1.0.0"
PAGE = 500
"""Rows that one hop to the database brings for a list without `limit`."""

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


# Reply structs


class CustomerReply(msgspec.Struct):
    """A customer as its replies show it."""

    id: int
    name: str
    address: str | None
    created_on: str


class PurchaseAdded(msgspec.Struct):
    """A purchase as the reply to adding it shows it."""

    id: int
    purchase_name: str
    quantity: int
    customer_id: str
    purchased_on: str


class PurchaseListed(msgspec.Struct):
    """A purchase as a list shows it."""

    purchase_id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str


class PurchaseReply(msgspec.Struct):
    """A purchase as the replies to updating it and to reading it alone show it."""

    id: str
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None


def short_time(stored: str) -> str:
    """Return `2022-04-09 12:43:22.237526+00:00` as `Apr 09 2022 12:43:22`."""
    year, month, day = stored[:4], stored[5:7], stored[8:10]
    if not month.isdecimal() or not 1 <= int(month) <= 12:
        return stored  # taken over from a file that holds something else
    return f"{MONTHS[int(month) - 1]} {day} {year} {stored[11:19]}"


def _customer(row: db.Customer) -> CustomerReply:
    return CustomerReply(row.id, row.name, row.address, short_time(row.created_on))


def _purchase(row: db.Purchase) -> PurchaseReply:
    return PurchaseReply(
        str(row.id),
        row.purchase_name,
        row.quantity,
        row.purchased_on,
        row.last_updated_on,
    )


# Requests


def _id(request: web.Request, name: str) -> int:
    number = int(request.match_info[name])
    if number > MAX_ID:
        raise Problem(404, "There is nothing at this address.")
    return number


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    values = request.query.getall(name, [])
    if not values:
        return None
    text = values[0]
    if (
        len(values) > 1
        or not (text.isascii() and text.isdecimal() and len(text) <= 19)
        or not least <= int(text) <= most
    ):
        raise invalid((f"/{name}", f"Expected one whole number, {least} to {most}."))
    return int(text)


async def _body(request: web.Request, body: type[bodies.B]) -> bodies.B:
    return bodies.decode(await bodies.read(request, request.method == "PATCH"), body)


# Customers


async def create_customer(request: web.Request) -> web.StreamResponse:
    """Record a customer."""
    new = await _body(request, NewCustomer)
    row = await request.app[DATABASE].write(
        db.add_customer, new.name, new.address, db.now()
    )
    return ok(_customer(row), 201, {"Location": f"/api/v1/customer/{row.id}"})


async def read_customer(request: web.Request) -> web.StreamResponse:
    """Return one customer."""
    customer_id = _id(request, "customer_id")
    return ok(
        _customer(await request.app[DATABASE].read(db.read_customer, customer_id))
    )


# Purchases


async def add_purchase(request: web.Request) -> web.StreamResponse:
    """Record what a customer bought."""
    customer_id = _id(request, "customer_id")
    new = await _body(request, NewPurchase)
    row = await request.app[DATABASE].write(
        db.add_purchase, customer_id, new.purchase_name, new.quantity, db.now()
    )
    added = PurchaseAdded(
        row.id,
        row.purchase_name,
        row.quantity,
        row.customer_id,
        short_time(row.purchased_on),
    )
    location = f"/api/v1/customer/{customer_id}/purchase/{row.id}"
    return ok(added, 201, {"Location": location})


async def read_purchase(request: web.Request) -> web.StreamResponse:
    """Return one purchase of one customer."""
    row = await request.app[DATABASE].read(
        db.read_purchase, _id(request, "customer_id"), _id(request, "purchase_id")
    )
    return ok(_purchase(row))


async def change_purchase(request: web.Request) -> web.StreamResponse:
    """Change some of a purchase."""
    purchase_id = _id(request, "purchase_id")
    changes = await _body(request, PurchaseChanges)
    name, quantity = changes.purchase_name, changes.quantity
    if name is msgspec.UNSET and quantity is msgspec.UNSET:
        raise invalid(("", "Expected purchase_name, quantity or both."))
    return await _update(request, purchase_id, name or None, quantity or None)


async def replace_purchase(request: web.Request) -> web.StreamResponse:
    """Change all of a purchase."""
    purchase_id = _id(request, "purchase_id")
    new = await _body(request, NewPurchase)
    return await _update(request, purchase_id, new.purchase_name, new.quantity)


async def _update(
    request: web.Request, purchase_id: int, name: str | None, quantity: int | None
) -> Reply:
    row = await request.app[DATABASE].write(
        db.update_purchase, purchase_id, name, quantity, db.now()
    )
    return ok(_purchase(row))


async def delete_purchases(request: web.Request) -> web.StreamResponse:
    """Delete all or selected purchases of a customer, or do the documented update.

    The description gives the update the method DELETE and the path of the deletion;
    the two bodies share no field.
    """
    number = _id(request, "customer_id")
    fields = bodies.parse(await bodies.read(request)) if request.can_read_body else {}
    updating = fields.keys() & {"purchase_name", "quantity"}
    deleting = fields.keys() & {"delete_all", "purchase_ids"}
    if updating and deleting:
        faults = (
            (f"/{name}", "This is of the other kind.") for name in sorted(updating)
        )
        raise invalid(*faults)
    if updating:
        new = bodies.convert(fields, NewPurchase)
        reply = await _update(request, number, new.purchase_name, new.quantity)
        reply.add(DEPRECATED)
        return reply
    which = _which(request, fields)
    write = request.app[DATABASE].write
    if which is None:
        count = await write(db.delete_all_purchases, number)
    else:
        count = await write(db.delete_purchases, number, which)
    return Reply(200, ENCODER.encode({"status": "ok", "deleted_count": count}))


DEPRECATED = {"Deprecation": "@1775001600", "Link": '</docs>; rel="deprecation"'}


def _which(request: web.Request, fields: dict[str, Any]) -> list[int] | None:
    """Return the ids of the purchases to delete, None for all of them."""
    if fields.get("delete_all") is True:
        fields.pop("purchase_ids", None)  # ignored, whatever it holds
    chosen = bodies.convert(fields, Deletion)
    if chosen.delete_all is True:
        return None
    if chosen.purchase_ids is msgspec.UNSET:
        raise invalid(("", "Expected delete_all: true, or purchase_ids."))
    return chosen.purchase_ids


# Lists


async def list_purchases(request: web.Request) -> web.StreamResponse:
    """Return all purchases, or one customer's."""
    customer_id = _number(request, "customer_id", 1, MAX_ID)
    if customer_id is None:
        return await _list(request, db.list_purchases)
    return await _list(request, db.list_customer_purchases, customer_id)


async def list_customer_purchases(request: web.Request) -> web.StreamResponse:
    """Return one customer's purchases."""
    return await _list(request, db.list_customer_purchases, _id(request, "customer_id"))


async def _list(
    request: web.Request, question: Callable[..., db.Unit[db.Page]], *args: int
) -> web.StreamResponse:
    limit = after = None
    if "?" in request.raw_path:
        limit = _number(request, "limit", 1, 1000)
        after = _number(request, "after", 0, MAX_ID)
    database = request.app[DATABASE]
    page = await database.read(question, *args, after or 0, limit or PAGE)
    if page.after is None:
        return ok([PurchaseListed(*row) for row in page.rows])
    if limit is not None:
        return ok(
            [PurchaseListed(*row) for row in page.rows],
            headers={"Link": _next(request, page.after)},
        )
    return await _stream(request, _pages(database, page, question, *args))


def _next(request: web.Request, after: int) -> str:
    query = {**request.query, "after": str(after)}
    return f'<{request.rel_url.raw_path}?{urlencode(query)}>; rel="next"'


async def _pages(
    database: db.Engine,
    page: db.Page,
    question: Callable[..., db.Unit[db.Page]],
    *args: int,
) -> AsyncIterator[list[db.Row]]:
    yield page.rows
    while page.after is not None:
        page = await database.scan(question, *args, page.after, PAGE)
        yield page.rows


async def _stream(
    request: web.Request, pages: AsyncIterator[list[db.Row]]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={**FIXED_HEADERS, "Content-Type": JSON})
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    await response.prepare(request)
    before = b'{"status":"ok","data":['
    async for rows in pages:
        text = ENCODER.encode([PurchaseListed(*row) for row in rows])
        await response.write(before + text[1:-1])
        before = b","
    await response.write_eof(b"]}")
    return response


# The server itself


async def welcome(request: web.Request) -> web.StreamResponse:
    """Say what this is."""
    body = {
        "name": "customer purchase server",
        "version": VERSION,
        "healthy": True,
        "docs": "/docs",
    }
    return Reply(200, ENCODER.encode(body))


async def livez(request: web.Request) -> web.StreamResponse:
    """Say that the process answers."""
    return Reply(200, ENCODER.encode({"status": "ok"}))


async def readyz(request: web.Request) -> web.StreamResponse:
    """Try the database. 503 with what is wrong."""
    database = request.app[DATABASE]
    await database.check()
    return Reply(200, ENCODER.encode({"status": "ok", "database": database.name}))


# The table of routes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One row of the contract's table."""

    method: str
    path: str
    handler: Handler
    body: Any = None
    reply: Any = None
    status: int = 200
    access: str = "read"
    query: frozenset[str] = frozenset()


_PAGING = frozenset({"limit", "after"})
_CUSTOMER = "/api/v1/customer/{customer_id}"
_PURCHASES = "/api/v1/purchase/{customer_id}"
_PURCHASE = "/api/v1/purchase/{purchase_id}"

ROUTES = (
    Route(
        "GET",
        _PURCHASES,
        list_customer_purchases,
        None,
        list[PurchaseListed],
        query=_PAGING,
    ),
    Route("POST", _PURCHASES, add_purchase, NewPurchase, PurchaseAdded, 201, "write"),
    Route("DELETE", _PURCHASES, delete_purchases, Deletion, int, access="write"),
    Route(
        "PATCH",
        _PURCHASE,
        change_purchase,
        PurchaseChanges,
        PurchaseReply,
        access="write",
    ),
    Route(
        "PUT", _PURCHASE, replace_purchase, NewPurchase, PurchaseReply, access="write"
    ),
    Route(
        "POST",
        "/api/v1/customer",
        create_customer,
        NewCustomer,
        CustomerReply,
        201,
        "write",
    ),
    Route(
        "GET",
        "/api/v1/customer",
        list_purchases,
        None,
        list[PurchaseListed],
        query=_PAGING | {"customer_id"},
    ),
    Route("GET", _CUSTOMER, read_customer, None, CustomerReply),
    Route(
        "GET", _CUSTOMER + "/purchase/{purchase_id}", read_purchase, None, PurchaseReply
    ),
    Route("GET", "/", welcome, access="public"),
    Route("GET", "/livez", livez, access="public"),
    Route("GET", "/readyz", readyz, access="public"),
)
