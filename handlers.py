"""What each URL means: a short handler for each route, and the table of routes."""

from collections.abc import Awaitable
from functools import partial
from typing import Any

from aiohttp import web

import db
from api import imports, pages, request_body
from api.auth import AUTHENTICATOR
from api.conditional import (
    not_modified,
    precondition,
    untagged,
    untagged_check,
    untagged_problem,
)
from api.database import DATABASE, HISTORY_DAYS, author, count_of, report_of, scan_of
from api.event_stream import EVENTS, stream
from api.filters import FILTERS, feed_filters, is_descending, purchase_filters, sum_key
from api.imports import ANY_FILE, MAX_FILE
from api.listing import FORMATS, PageQuery, RunQuery, negotiate, respond, respond_whole
from api.middleware import METRICS
from api.repeatable import write_once
from api.replies import (
    CHANGE_ROWS,
    CUSTOMER_ROWS,
    DEPRECATED,
    PURCHASE_ROWS,
    SUMMARY_ROWS,
    added_response,
    changed,
    created_response,
    customer_response,
    deleted,
    location,
    purchase_response,
    tag_line,
    undone_response,
)
from api.request_body import optional_past_time, value_or_none
from api.responses import CALLER, ProblemError, RawResponse, invalid_field, ok_body
from api.routing import Route, SecondBody, path_id, purchase_ids
from api.schemas import (
    MAX_ID,
    CallerReply,
    ChangeReply,
    CustomerChanges,
    CustomerReply,
    Deletion,
    HealthReply,
    ImportReply,
    NewCustomer,
    NewPurchase,
    PurchaseAdded,
    PurchaseChanges,
    PurchaseListItem,
    PurchaseReply,
    PurchaseValues,
    ServerInfo,
    SummaryItem,
    UndoReply,
)

VERSION = "1.0.0"


# Customers


async def create_customer(request: web.Request) -> web.StreamResponse:
    """Record a customer."""
    new = await request_body.read(request, NewCustomer)
    if problem := untagged_problem(request):
        raise problem
    values = new.name, new.address, request[CALLER], db.now()
    query = created_response, db.add_customer
    return await write_once(request, request.app[DATABASE].write, new, *query, *values)


async def read_customer(request: web.Request) -> web.StreamResponse:
    """Return one customer."""
    customer_id = path_id(request, "customer_id")
    row = await request.app[DATABASE].read(db.read_customer, customer_id)
    if not_modified(request, row.version, "customer"):
        return RawResponse(304, lines=tag_line(row.version))
    return customer_response(row)


def find_customers(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return the customers whose name contains a text, in any case."""
    part = request_body.text(request, "name") or ""
    descending = is_descending(request)
    query = partial(db.find_customers, part, descending)
    read, start = scan_of(request), MAX_ID if descending else 0
    count = partial(count_of, request, db.count_customers, part)
    return respond(request, CUSTOMER_ROWS, read, query, scan_of, start, count=count)


async def change_customer(request: web.Request) -> web.StreamResponse:
    """Change some of a customer."""
    customer_id = path_id(request, "customer_id")
    changes = await request_body.read(request, CustomerChanges)
    row, change = await request.app[DATABASE].write(
        db.update_customer,
        customer_id,
        value_or_none(changes.name),
        value_or_none(changes.address),
        author(request),
        precondition(request, "customer"),
    )
    return changed(customer_response(row), change)


async def erase_customer(request: web.Request) -> web.StreamResponse:
    """Delete a customer and all that refers to it; with purge, for good."""
    customer_id = path_id(request, "customer_id")
    database = request.app[DATABASE]
    purges = request_body.switch(request, "purge")
    query = db.purge_customer if purges else db.delete_customer
    check = precondition(request, "customer")
    written = await database.write(query, customer_id, author(request), check)
    while purges and await database.write(db.purge_step, customer_id):
        pass
    return deleted(written)


# Purchases


async def add_purchase(request: web.Request) -> web.StreamResponse:
    """Record what a customer bought."""
    customer_id = path_id(request, "customer_id")
    new = await request_body.read(request, NewPurchase)
    if problem := untagged_problem(request):
        raise await _problem_of_list(request, problem)
    bought = new.purchase_name, new.quantity, optional_past_time(new.purchased_on)
    values = customer_id, *bought, request[CALLER], db.now()
    add, write = db.add_purchase, request.app[DATABASE].write
    return await write_once(request, write, new, added_response, add, *values)


async def _problem_of_list(request: web.Request, problem: ProblemError) -> ProblemError:
    """Return a problem with the list of a customer. NotFoundError where none is."""
    customer_id = path_id(request, "customer_id")
    await request.app[DATABASE].read(db.read_customer, customer_id)
    return problem


async def read_purchase(request: web.Request) -> web.StreamResponse:
    """Return one purchase of one customer."""
    row = await request.app[DATABASE].read(
        db.read_purchase,
        path_id(request, "customer_id"),
        path_id(request, "purchase_id"),
    )
    if not_modified(request, row.version, "purchase"):
        return RawResponse(304, lines=tag_line(row.version))
    return purchase_response(row)


async def change_purchase(request: web.Request) -> web.StreamResponse:
    """Change some of a purchase."""
    ids = purchase_ids(request)
    changes = await request_body.read(request, PurchaseChanges)
    return await _update(request, ids, changes)


async def replace_purchase(request: web.Request) -> web.StreamResponse:
    """Change all of a purchase."""
    ids = purchase_ids(request)
    changes = await request_body.read(request, PurchaseValues)
    return await _update(request, ids, changes)


async def _update(
    request: web.Request,
    ids: tuple[int | None, int],
    changes: PurchaseChanges | PurchaseValues,
) -> RawResponse:
    row, change = await request.app[DATABASE].write(
        db.update_purchase,
        *ids,
        value_or_none(changes.purchase_name),
        value_or_none(changes.quantity),
        author(request),
        precondition(request, "purchase"),
    )
    response = changed(purchase_response(row), change)
    # Whose tag it is: not that of the target (RFC 9110, sections 8.7 and 9.3.4).
    response.add({"Content-Location": location(row)})
    return response


async def delete_purchases(request: web.Request) -> web.StreamResponse:
    """Delete all or selected purchases of a customer; or update, as first described.

    The two bodies share no field. A body that holds purchase_name and quantity updates
    the purchase whose id stands in the path; use PATCH for that.
    """
    number = path_id(request, "customer_id")
    body = await request_body.read_deletion(request)
    if isinstance(body, PurchaseValues):
        response = await _update(request, (None, number), body)
        response.add(DEPRECATED)
        return response
    if problem := untagged_problem(request):
        raise await _problem_of_list(request, problem)
    write = request.app[DATABASE].write
    if body.delete_all is True:
        return deleted(await write(db.delete_all_purchases, number, author(request)))
    chosen = number, value_or_none(body.purchase_ids) or [], author(request)
    return deleted(await write(db.delete_purchases, *chosen))


# Lists


def list_purchases(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return all purchases, or one customer's."""
    customer_id = request_body.number(request, "customer_id", 1, MAX_ID)
    return _list_purchases(request, customer_id)


def list_customer_purchases(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return one customer's purchases."""
    return _list_purchases(request, path_id(request, "customer_id"))


def _list_purchases(
    request: web.Request, customer_id: int | None
) -> Awaitable[web.StreamResponse]:
    filters, descending = purchase_filters(request, customer_id), is_descending(request)
    read: RunQuery = request.app[DATABASE].read
    query: PageQuery = db.list_purchases
    if descending or any(filters[1:]):
        read = scan_of(request)
        query = partial(db.search_purchases, filters, descending)
    elif customer_id is not None:
        query = partial(db.list_customer_purchases, customer_id)
    start = MAX_ID if descending else 0
    count = partial(count_of, request, db.count_purchases, filters)
    return respond(request, PURCHASE_ROWS, read, query, scan_of, start, count=count)


async def summarize_purchases(request: web.Request) -> web.StreamResponse:
    """Return how many purchases there are, and of what quantity, by a key."""
    by = sum_key(request)
    limit = request_body.number(request, "limit", 1, 1000)
    customer_id = request_body.number(request, "customer_id", 1, MAX_ID)
    filters = purchase_filters(request, customer_id)
    page = await report_of(request)(db.summarize_purchases, filters, by, limit)
    if page.size > db.MAX_KEYS:
        raise invalid_field(
            "/limit", f"Expected one: there are over {db.MAX_KEYS} keys."
        )
    return respond_whole(request, SUMMARY_ROWS, page)


# Imports


def import_file(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Add the customers and purchases of a file, all of them or none."""
    engine, by = request.app[DATABASE], author(request)
    return imports.answer(request, engine, report_of(request), by)


# The history


async def read_changes(request: web.Request) -> web.StreamResponse:
    """Return the rows of the history, in the order of the feed."""
    filters = feed_filters(request)
    descending = is_descending(request)
    engine = request.app[DATABASE]
    scan = scan_of(request)
    if negotiate(request, FEED_FORMATS) is EVENTS:
        return await stream(request, scan, engine.read, filters)
    query = partial(db.read_changes, filters, descending)
    start = 0 if descending else -1
    shown = CHANGE_ROWS, scan, query, scan_of, start, FEED_FORMATS
    return await respond(request, *shown)


def read_change(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Return the rows of one change."""
    query = partial(db.read_change, path_id(request, "change_id"))
    read = request.app[DATABASE].read
    return respond(request, CHANGE_ROWS, read, query, scan_of)


async def undo_change(request: web.Request) -> web.StreamResponse:
    """Undo a change."""
    return await write_once(
        request,
        request.app[DATABASE].write,
        await request_body.read_empty(request),
        undone_response,
        db.undo_change,
        path_id(request, "change_id"),
        author(request),
        db.now(request.app[HISTORY_DAYS] * 24 * 3600),
        untagged_check(request),
    )


# The server itself


async def read_caller(request: web.Request) -> web.StreamResponse:
    """Return who calls, and what it may do."""
    name, access = request.app[AUTHENTICATOR].caller_of(request)
    return untagged(
        request, ok_body(CallerReply(name, access, request.app[HISTORY_DAYS]))
    )


async def welcome(request: web.Request) -> web.StreamResponse:
    """Return the name and the version of this server; a browser goes to the console."""
    info = ServerInfo("customer purchase server", VERSION, True, "/docs")
    return pages.welcome(request, info)


async def livez(request: web.Request) -> web.StreamResponse:
    """Return that the process answers."""
    return untagged(request, HealthReply("ok"))


async def readyz(request: web.Request) -> web.StreamResponse:
    """Try the database; 503 names the fault."""
    database = request.app[DATABASE]
    await database.check()
    return untagged(request, HealthReply("ok", database.name))


async def metrics(request: web.Request) -> web.StreamResponse:
    """Return the metrics in the text format of Prometheus."""
    text = request.app[METRICS].text()
    return untagged(request, text, "text/plain; version=0.0.4; charset=utf-8")


# The table of routes

PAGING = frozenset({"limit", "after"})
OF_CUSTOMER = PAGING | FILTERS | {"order"}
OF_ONE = OF_CUSTOMER | {"customer_id"}
NAMED = PAGING | {"name", "order"}
FEED = PAGING | {"order", "customer_id", "purchase_id", "caller", "action"}
SUMS = FILTERS | {"by", "customer_id", "limit"}
CUSTOMER = "/api/v1/customer"
ONE_CUSTOMER = "/api/v1/customer/{customer_id}"
PURCHASES = "/api/v1/purchase/{customer_id}"
PURCHASE = "/api/v1/purchase/{purchase_id}"
ONE_PURCHASE = "/api/v1/customer/{customer_id}/purchase/{purchase_id}"

FEED_FORMATS = (*FORMATS, EVENTS)
FILE_TYPES = ("text/csv", "application/jsonl")

UPDATE = SecondBody(PurchaseValues, PurchaseReply)
"""The deletion is also the update as it was first described."""

# fmt: off
ROUTES = (
    Route("GET", PURCHASES, list_customer_purchases, None, list[PurchaseListItem], 200, "read", OF_CUSTOMER),
    Route("POST", PURCHASES, add_purchase, NewPurchase, PurchaseAdded, 201, "write"),
    Route("DELETE", PURCHASES, delete_purchases, Deletion, int, 200, "write", frozenset({"delete_all", "purchase_id"}), second_body=UPDATE),
    Route("PATCH", PURCHASE, change_purchase, PurchaseChanges, PurchaseReply, 200, "write"),
    Route("PUT", PURCHASE, replace_purchase, PurchaseValues, PurchaseReply, 200, "write"),
    Route("POST", CUSTOMER, create_customer, NewCustomer, CustomerReply, 201, "write"),
    Route("GET", CUSTOMER, list_purchases, None, list[PurchaseListItem], 200, "read", OF_ONE),
    Route("GET", ONE_CUSTOMER, read_customer, None, CustomerReply, 200, "read"),
    Route("PATCH", ONE_CUSTOMER, change_customer, CustomerChanges, CustomerReply, 200, "write"),
    Route("DELETE", ONE_CUSTOMER, erase_customer, None, int, 200, "write", frozenset({"purge"})),
    Route("GET", ONE_PURCHASE, read_purchase, None, PurchaseReply, 200, "read"),
    Route("PATCH", ONE_PURCHASE, change_purchase, PurchaseChanges, PurchaseReply, 200, "write", operation="change_customer_purchase"),
    Route("PUT", ONE_PURCHASE, replace_purchase, PurchaseValues, PurchaseReply, 200, "write", operation="replace_customer_purchase"),
    Route("GET", "/api/v1/customers", find_customers, None, list[CustomerReply], 200, "read", NAMED),
    Route("GET", "/api/v1/customers.{format}", find_customers, None, str, 200, "read", NAMED, FILE_TYPES, operation="download_customers"),
    Route("GET", "/api/v1/purchases.{format}", list_purchases, None, str, 200, "read", OF_ONE, FILE_TYPES, operation="download_purchases"),
    Route("GET", "/api/v1/summary", summarize_purchases, None, list[SummaryItem], 200, "read", SUMS),
    Route("POST", "/api/v1/imports", import_file, None, ImportReply, 201, "write", frozenset({"dry_run"}), file_type=ANY_FILE, max_body=MAX_FILE),
    Route("GET", "/api/v1/changes", read_changes, None, list[ChangeReply], 200, "read", FEED),
    Route("GET", "/api/v1/changes/{change_id}", read_change, None, list[ChangeReply], 200, "read", PAGING),
    Route("POST", "/api/v1/changes/{change_id}/undo", undo_change, None, UndoReply, 201, "write"),
    Route("GET", "/api/v1/caller", read_caller, None, CallerReply, 200, "read"),
    Route("GET", "/", welcome, None, ServerInfo, 200, "public", has_page=True),
    Route("GET", "/livez", livez, None, HealthReply, 200, "public", is_probe=True, is_quiet=True),
    Route("GET", "/readyz", readyz, None, HealthReply, 200, "public", is_probe=True, is_quiet=True),
    Route("GET", "/metrics", metrics, None, str, 200, "read", media_types=("text/plain",), is_quiet=True),
    Route("GET", "/openapi.json", pages.description, None, dict[str, Any], 200, "public", is_file=True),
    Route("GET", "/docs", pages.docs, None, str, 200, "public", media_types=("text/html",), is_file=True),
    Route("GET", "/docs/{asset}", pages.docs_asset, None, bytes, 200, "public", media_types=pages.DOCS_TYPES, is_file=True),
    Route("GET", "/console", pages.console, None, str, 200, "public", media_types=("text/html",), is_file=True),
    Route("GET", "/console/{file}", pages.console_file, None, bytes, 200, "public", media_types=pages.CONSOLE_TYPES, is_file=True),
)
# fmt: on
