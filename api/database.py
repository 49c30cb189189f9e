"""The database of the application, as a request may use it."""

from collections.abc import Callable
from functools import partial
from typing import cast

from aiohttp import web

import db
from api.imports import Report
from api.listing import RunQuery
from api.responses import CALLER
from api.shares import SHARES

DATABASE: web.AppKey[db.Engine] = web.AppKey("database", db.Engine)
HISTORY_DAYS: web.AppKey[int] = web.AppKey("history_days", int)


def author(request: web.Request) -> db.Author:
    """Return who writes, and when."""
    keeps_images = request.app[HISTORY_DAYS] > 0
    return db.Author(request[CALLER], db.now(), keeps_images)


def scan_of(request: web.Request) -> RunQuery:
    """Return what reads long lists in the turn of a request's caller."""
    return request.app[SHARES].of(request, request.app[DATABASE].scan)


def report_of(request: web.Request) -> Report:
    """Return what runs reports in the turn of a request's caller."""
    report: Report = request.app[DATABASE].report
    return partial(request.app[SHARES].report, request, report)


async def count_of(
    request: web.Request, query: Callable[[*db.Ts], db.Unit[int]], *args: *db.Ts
) -> int:
    """Return the number that a report counts, in the turn of a request's caller."""
    return cast(int, await report_of(request)(query, *args))
