"""What each URL means: reply structs, a short handler a route, the table of routes."""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

import bodies
import db
import lists
from bodies import (
    MAX_ID,
    CustomerChanges,
    Deletion,
    NewCustomer,
    NewPurchase,
    PurchaseChanges,
)
from conditions import entity_tag, idempotency_key, not_modified, versions
from replies import ENCODER, Problem, Reply, header_lines, invalid, ok

DATABASE: web.AppKey[db.Engine] = web.AppKey("database", db.Engine)
METRICS: web.AppKey[Callable[[], bytes]] = web.AppKey("metrics")
PAGES: web.AppKey[Mapping[str, "Page"]] = web.AppKey("pages")
"""What /openapi.json, /docs and the files of the page answer with, by path."""

VERSION = "1.0.0"
ID = "[1-9][0-9]{0,18}"
"""What an id in a path looks like."""
NAMES = "JanFebMarAprMayJunJulAugSepOctNovDec"
MONTHS = {f"{month + 1:02}": NAMES[3 * month : 3 * month + 3] for month in range(12)}
"""English, whatever the locale says, which strftime would ask."""


# Reply structs


class Tagged(msgspec.Struct):
    """One row, whose version is the entity tag of the reply."""


class CustomerReply(Tagged):
    """A customer."""

    id: int
    name: str
    address: str | None
    created_on: str


class PurchaseAdded(Tagged):
    """A purchase, as the reply to adding it shows it."""

    id: int
    purchase_name: str
    quantity: int
    customer_id: str
    purchased_on: str


class PurchaseListed(msgspec.Struct):
    """A purchase, as a list shows it."""

    purchase_id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str


class PurchaseReply(Tagged):
    """A purchase, as updating it and reading it alone show it."""

    id: str
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None


class Welcome(msgspec.Struct):
    """What this server is."""

    name: str
    version: str
    healthy: bool
    docs: str


class Health(msgspec.Struct, omit_defaults=True):
    """How the server is."""

    status: str
    database: str | None = None


def short_time(stored: str) -> str:
    """Return `2022-04-09 12:43:22.237526+00:00` as `Apr 09 2022 12:43:22`.

    What was taken over from another file and is no time comes back as it is.
    """
    return _short_time(stored[:19]) or stored


@lru_cache(100)
def _short_time(stored: str) -> str:
    month = MONTHS.get(stored[5:7])
    return f"{month} {stored[8:10]} {stored[:4]} {stored[11:]}" if month else ""


def _customer(row: db.Customer) -> CustomerReply:
    return CustomerReply(row.id, row.name, row.address, short_time(row.created_on))


def _tag_line(version: int) -> str:
    return f"ETag: {entity_tag(version)}\r\n"


def _customer_reply(row: db.Customer) -> Reply:
    return ok(_customer(row), _tag_line(row.version))


def _purchase_reply(row: db.Purchase) -> Reply:
    reply = PurchaseReply(
        str(row.id),
        row.purchase_name,
        row.quantity,
        row.purchased_on,
        row.last_updated_on,
    )
    return ok(reply, _tag_line(row.version))


# What a request says


def _id(request: web.Request, name: str) -> int:
    number = int(request.match_info[name])
    if number > MAX_ID:
        raise Problem(404, "There is nothing at this address.")
    return number


# Customers


async def create_customer(request: web.Request) -> web.StreamResponse:
    """Record a customer."""
    new = await bodies.read(request, NewCustomer)
    return await _add(
        request, new, _created, db.add_customer, new.name, new.address, db.now()
    )


def _created(row: db.Customer) -> db.Answer:
    body = ENCODER.encode({"status": "ok", "data": _customer(row)})
    location = f"/api/v1/customer/{row.id}"
    return db.Answer(201, location, entity_tag(row.version), body, row.id)


async def read_customer(request: web.Request) -> web.StreamResponse:
    """Return one customer."""
    customer_id = _id(request, "customer_id")
    row = await request.app[DATABASE].read(db.read_customer, customer_id)
    if not_modified(request, row.version):
        return Reply(304, lines=_tag_line(row.version))
    return _customer_reply(row)


def find_customers(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return the customers whose name holds a text, in any case."""
    texts = request.query.getall("name", [""])
    if len(texts) > 1 or len(texts[0]) > 200 or "\0" in texts[0]:
        rule = "Expected one text of at most 200 characters, without U+0000."
        raise invalid(("/name", rule))
    question = partial(db.find_customers, texts[0].casefold())
    scan = request.app[DATABASE].scan
    return lists.answer(request, CUSTOMERS, scan, scan, question)


async def change_customer(request: web.Request) -> web.StreamResponse:
    """Change some of a customer."""
    customer_id = _id(request, "customer_id")
    changes = await bodies.read(request, CustomerChanges)
    row = await request.app[DATABASE].write(
        db.update_customer,
        customer_id,
        bodies.given(changes.name),
        bodies.given(changes.address),
        versions(request),
    )
    return _customer_reply(row)


async def erase_customer(request: web.Request) -> web.StreamResponse:
    """Delete a customer and all that refers to it."""
    customer_id = _id(request, "customer_id")
    count = await request.app[DATABASE].write(
        db.erase_customer, customer_id, versions(request)
    )
    return _deleted(count)


def _deleted(count: int) -> Reply:
    return Reply(200, ENCODER.encode({"status": "ok", "deleted_count": count}))


# Purchases


async def add_purchase(request: web.Request) -> web.StreamResponse:
    """Record what a customer bought."""
    customer_id = _id(request, "customer_id")
    new = await bodies.read(request, NewPurchase)
    return await _add(
        request,
        new,
        _added,
        db.add_purchase,
        customer_id,
        new.purchase_name,
        new.quantity,
        db.now(),
    )


def _added(row: db.Purchase) -> db.Answer:
    reply = PurchaseAdded(
        row.id,
        row.purchase_name,
        row.quantity,
        row.customer_id,
        short_time(row.purchased_on),
    )
    body = ENCODER.encode({"status": "ok", "data": reply})
    location = f"/api/v1/customer/{row.customer_id}/purchase/{row.id}"
    tag = entity_tag(row.version)
    return db.Answer(201, location, tag, body, int(row.customer_id))


async def _add(
    request: web.Request,
    body: bodies.Body,
    render: Callable[[db.T], db.Answer],
    question: Callable[[*db.Ts], db.Unit[db.T]],
    *args: *db.Ts,
) -> Reply:
    """Add a row, once for each idempotency key, and answer with its location."""
    write = request.app[DATABASE].write
    key = idempotency_key(request, body)
    if key is None:
        answer = render(await write(question, *args))
    else:
        answer = await write(db.once, key, render, question, *args)
    lines = f"Location: {answer.location}\r\nETag: {answer.etag}\r\n"
    if answer.replayed:
        lines += "Idempotency-Replayed: true\r\n"
    return Reply(answer.status, answer.body, lines)


async def read_purchase(request: web.Request) -> web.StreamResponse:
    """Return one purchase of one customer."""
    row = await request.app[DATABASE].read(
        db.read_purchase, _id(request, "customer_id"), _id(request, "purchase_id")
    )
    if not_modified(request, row.version):
        return Reply(304, lines=_tag_line(row.version))
    return _purchase_reply(row)


async def change_purchase(request: web.Request) -> web.StreamResponse:
    """Change some of a purchase."""
    purchase_id = _id(request, "purchase_id")
    return await _update(
        request, purchase_id, await bodies.read(request, PurchaseChanges)
    )


async def replace_purchase(request: web.Request) -> web.StreamResponse:
    """Change all of a purchase."""
    purchase_id = _id(request, "purchase_id")
    return await _update(request, purchase_id, await bodies.read(request, NewPurchase))


async def _update(
    request: web.Request, purchase_id: int, changes: PurchaseChanges | NewPurchase
) -> Reply:
    row = await request.app[DATABASE].write(
        db.update_purchase,
        purchase_id,
        bodies.given(changes.purchase_name),
        bodies.given(changes.quantity),
        db.now(),
        versions(request),
    )
    return _purchase_reply(row)


DEPRECATED = {"Deprecation": "@1775001600", "Link": '</docs>; rel="deprecation"'}
"""The description gives the update the method and the path of the deletion."""


async def delete_purchases(request: web.Request) -> web.StreamResponse:
    """Delete all or selected purchases of a customer; or update, as first described.

    The two bodies share no field. A body that holds purchase_name and quantity updates
    the purchase whose id stands in the path; use PATCH for that.
    """
    number = _id(request, "customer_id")
    text = await bodies.read_any(request)
    fields = bodies.parse(text) if text else {}
    if fields and request.query:
        raise invalid(("", "Expected a body or a query, not both."))
    updating = fields.keys() & NewPurchase.__struct_fields__
    if updating and fields.keys() & Deletion.__struct_fields__:
        mixed = [
            (f"/{name}", "This does not go with a deletion.")
            for name in sorted(updating)
        ]
        rest = {name: fields[name] for name in fields.keys() - updating}
        raise invalid(*mixed, *bodies.faults_of(rest, Deletion))
    if updating:
        reply = await _update(request, number, bodies.convert(fields, NewPurchase))
        reply.add(DEPRECATED)
        return reply
    chosen = _chosen(request, fields)
    write = request.app[DATABASE].write
    if chosen is None:
        return _deleted(await write(db.delete_all_purchases, number))
    return _deleted(await write(db.delete_purchases, number, chosen))


def _chosen(request: web.Request, fields: dict[str, Any]) -> list[int] | None:
    """Return the ids of the purchases to delete, None for all of them."""
    if request.query:
        fields = _deletion_query(request)
    if fields.get("delete_all") is True:
        fields.pop("purchase_ids", None)  # ignored, whatever it holds
    deletion = bodies.convert(fields, Deletion)
    if deletion.delete_all is True:
        return None
    if deletion.purchase_ids is msgspec.UNSET:
        raise invalid(("", "Expected delete_all: true, or purchase_ids."))
    return deletion.purchase_ids


def _deletion_query(request: web.Request) -> dict[str, Any]:
    """Return the query as the fields of the body that it stands for."""
    fields: dict[str, Any] = {}
    match request.query.getall("delete_all", []):
        case []:
            pass
        case ["true"]:
            return {"delete_all": True}
        case ["false"]:
            fields["delete_all"] = False
        case _:
            raise invalid(("/delete_all", "Expected true or false, once."))
    if "purchase_id" in request.query:
        fields["purchase_ids"] = bodies.numbers(request, "purchase_id", 1)
    return fields


# Lists

STORED = msgspec.json.Decoder(list[CustomerReply])


def _customers(json: str) -> list[CustomerReply]:
    customers = STORED.decode(json)
    for customer in customers:
        customer.created_on = short_time(customer.created_on)
    return customers


CUSTOMERS = lists.Kind(CustomerReply, _customers, as_stored=False)
PURCHASES_OF = msgspec.json.Decoder(list[PurchaseListed])
PURCHASES_KIND = lists.Kind(PurchaseListed, PURCHASES_OF.decode, as_stored=True)


def list_purchases(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return all purchases, or one customer's."""
    customer_id = bodies.number(request, "customer_id", 1, MAX_ID)
    question: lists.Question = db.list_purchases
    if customer_id is not None:
        question = partial(db.list_customer_purchases, customer_id)
    return _list_purchases(request, question)


def list_customer_purchases(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return one customer's purchases."""
    question = partial(db.list_customer_purchases, _id(request, "customer_id"))
    return _list_purchases(request, question)


def _list_purchases(
    request: web.Request, question: lists.Question
) -> Awaitable[web.StreamResponse]:
    engine = request.app[DATABASE]
    return lists.answer(request, PURCHASES_KIND, engine.read, engine.scan, question)


# The server itself


async def welcome(request: web.Request) -> web.StreamResponse:
    """Say what this is."""
    what = Welcome("customer purchase server", VERSION, True, "/docs")
    return Reply(200, ENCODER.encode(what))


async def livez(request: web.Request) -> web.StreamResponse:
    """Say that the process answers."""
    return Reply(200, ENCODER.encode(Health("ok")))


async def readyz(request: web.Request) -> web.StreamResponse:
    """Try the database; 503 names what is wrong."""
    database = request.app[DATABASE]
    await database.check()
    return Reply(200, ENCODER.encode(Health("ok", database.name)))


async def metrics(request: web.Request) -> web.StreamResponse:
    """Return what Prometheus scrapes."""
    text = request.app[METRICS]()
    return Reply(200, text, content_type="text/plain; version=0.0.4; charset=utf-8")


class Page(NamedTuple):
    """A file that stays as it is for the life of the process."""

    version: int
    body: bytes
    content_type: str


CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""No other host, no script but the files; the page sets styles of its elements."""


async def description(request: web.Request) -> web.StreamResponse:
    """Return the description of all this: OpenAPI 3.1."""
    return _page(request)


async def docs(request: web.Request) -> web.StreamResponse:
    """Return the page that shows the description and tries it out."""
    return _page(request)


async def docs_asset(request: web.Request) -> web.StreamResponse:
    """Return a file that the page loads."""
    return _page(request)


def _page(request: web.Request) -> Reply:
    page = request.app[PAGES].get(request.path)
    if page is None:
        raise Problem(404, "There is nothing at this address.")
    lines = _tag_line(page.version)
    lines += f"Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n"
    if not_modified(request, page.version):
        return Reply(304, lines=lines)
    return Reply(200, page.body, lines, page.content_type)


# The table of routes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One row of the contract's table; `access` is public, read or write."""

    method: str
    path: str
    handler: Handler
    body: type[bodies.Body] | None
    reply: Any
    status: int
    access: str
    query: frozenset[str] = frozenset()


PAGING = frozenset({"limit", "after"})
OF_ONE = PAGING | {"customer_id"}
NAMED = PAGING | {"name"}
CHOICE = frozenset({"delete_all", "purchase_id"})
CUSTOMER = "/api/v1/customer"
ONE_CUSTOMER = "/api/v1/customer/{customer_id}"
PURCHASES = "/api/v1/purchase/{customer_id}"
PURCHASE = "/api/v1/purchase/{purchase_id}"
ONE_PURCHASE = "/api/v1/customer/{customer_id}/purchase/{purchase_id}"

PURCHASES_LISTED = list[PurchaseListed]
CUSTOMERS_LISTED = list[CustomerReply]

# fmt: off
ROUTES = (
    Route("GET", PURCHASES, list_customer_purchases, None, PURCHASES_LISTED, 200, "read", PAGING),
    Route("POST", PURCHASES, add_purchase, NewPurchase, PurchaseAdded, 201, "write"),
    Route("DELETE", PURCHASES, delete_purchases, Deletion, int, 200, "write", CHOICE),
    Route("PATCH", PURCHASE, change_purchase, PurchaseChanges, PurchaseReply, 200, "write"),
    Route("PUT", PURCHASE, replace_purchase, NewPurchase, PurchaseReply, 200, "write"),
    Route("POST", CUSTOMER, create_customer, NewCustomer, CustomerReply, 201, "write"),
    Route("GET", CUSTOMER, list_purchases, None, PURCHASES_LISTED, 200, "read", OF_ONE),
    Route("GET", ONE_CUSTOMER, read_customer, None, CustomerReply, 200, "read"),
    Route("PATCH", ONE_CUSTOMER, change_customer, CustomerChanges, CustomerReply, 200, "write"),
    Route("DELETE", ONE_CUSTOMER, erase_customer, None, int, 200, "write"),
    Route("GET", ONE_PURCHASE, read_purchase, None, PurchaseReply, 200, "read"),
    Route("GET", "/api/v1/customers", find_customers, None, CUSTOMERS_LISTED, 200, "read", NAMED),
    Route("GET", "/", welcome, None, Welcome, 200, "public"),
    Route("GET", "/livez", livez, None, Health, 200, "public"),
    Route("GET", "/readyz", readyz, None, Health, 200, "public"),
    Route("GET", "/metrics", metrics, None, str, 200, "read"),
    Route("GET", "/openapi.json", description, None, dict[str, Any], 200, "public"),
    Route("GET", "/docs", docs, None, str, 200, "public"),
    Route("GET", "/docs/{asset}", docs_asset, None, bytes, 200, "public"),
)
# fmt: on


async def nowhere(request: web.Request) -> web.StreamResponse:
    """Answer what no route matches; OPTIONS with the methods that a path has."""
    problem = unmatched(request.rel_url.path_safe)  # as the router sees it
    if request.method == "OPTIONS" and problem.headers:
        return Reply(204, lines=header_lines(problem.headers))
    raise problem


def unmatched(path: str) -> Problem:
    """Return the 404 or, with the methods that the path has, the 405 of a request."""
    methods = methods_of(path)
    if not methods:
        return Problem(404, "There is nothing at this address.")
    return Problem(405, "Not with this method.", headers={"Allow": ", ".join(methods)})


NOWHERE = Route("*", "unmatched", nowhere, None, None, 404, "read")
"""Stands for what no route matches: it is let in, counted and logged like a route."""
UNMATCHED = {
    **{route.path: "public" for route in ROUTES if route.access == "public"},
    "/{anything:.*}": NOWHERE.access,
}
"""Where that may be, by path as the router has it, and who may know."""


def _matches(path: str) -> re.Pattern[str]:
    ids = re.sub(r"\{\w+_id\}", f"({ID})", path)
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", ids))


METHODS = [(_matches(route.path), route.method) for route in ROUTES]


def _has_place(matches: re.Pattern[str], path: str) -> bool:
    found = matches.fullmatch(path)
    return found is not None and all(int(number) <= MAX_ID for number in found.groups())


def methods_of(path: str) -> list[str]:
    """Return the methods that a path has, none when there is nothing at it."""
    methods = {method for matches, method in METHODS if _has_place(matches, path)}
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods | {"OPTIONS"}) if methods else []
