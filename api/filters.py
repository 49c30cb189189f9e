"""The filters and the order that a query asks for."""

from typing import get_args

from aiohttp import web

import db
from api import request_body
from api.responses import invalid_field
from api.schemas import MAX_ID, Action, SummaryKey
from api.times import parse_time

FILTERS = frozenset({"purchased_from", "purchased_before", "purchase_name"})


def purchase_filters(
    request: web.Request, customer_id: int | None
) -> db.PurchaseFilters:
    """Return the filters of purchases, or of one customer's. ProblemError 422."""
    if "?" not in request.raw_path:
        return db.PurchaseFilters(customer_id)
    return db.PurchaseFilters(
        customer_id,
        _time(request, "purchased_from"),
        _time(request, "purchased_before"),
        request_body.text(request, "purchase_name") or None,
    )


def feed_filters(request: web.Request) -> db.Filters:
    """Return the filters of the feed. ProblemError 422."""
    return db.Filters(
        request_body.number(request, "customer_id", 1, MAX_ID),
        request_body.number(request, "purchase_id", 1, MAX_ID),
        request_body.text(request, "caller"),
        request_body.text(request, "action", get_args(Action)),
    )


def _time(request: web.Request, name: str) -> str | None:
    """Return a time as the tables hold it; of a date, its midnight in UTC."""
    texts = request.query.getall(name, [])
    if not texts:
        return None
    if len(texts) > 1:
        raise invalid_field(f"/{name}", "Expected one time.")
    try:
        return parse_time(texts[0], with_date=True)
    except ValueError as exc:
        raise invalid_field(f"/{name}", str(exc)) from None


def is_descending(request: web.Request) -> bool:
    """Return whether `order` turns a list round. ProblemError 422."""
    if "?" not in request.raw_path:
        return False
    return request_body.text(request, "order", ("asc", "desc")) == "desc"


def sum_key(request: web.Request) -> str:
    """Return by what to sum up. ProblemError 422 without it."""
    keys = get_args(SummaryKey)
    by = request_body.text(request, "by", keys)
    if by is None:
        raise invalid_field("/by", f"Expected one of {', '.join(keys)}.")
    return by
