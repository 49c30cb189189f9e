"""Replies from a replica: the change that they must show, and how old they are."""

import re
from math import ceil

from aiohttp import web

import db
from api.middleware import Frame, instrument
from api.responses import ProblemError, RawResponse
from api.routing import Handler, Route
from api.schemas import ID_PATTERN, MAX_ID

CHANGE = re.compile(ID_PATTERN)


def instrument_read(route: Route, frame: Frame) -> Handler:
    """Return the handler of a route whose reads may be from a replica."""
    dispatch = instrument(route._replace(handler=_needing_change(route.handler)), frame)

    async def answer(request: web.Request) -> web.StreamResponse:
        token = db.READING.set(db.Reading())
        try:
            response = await dispatch(request)
            if isinstance(response, RawResponse) and response.status < 500:
                response.add(age_header())
            return response
        finally:
            db.READING.reset(token)

    return answer


def _needing_change(handler: Handler) -> Handler:
    """Return a handler whose reads show the change that the request names."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "Change" in request.headers and (reading := db.READING.get()) is not None:
            reading.change = _change_of(request)
        return await handler(request)

    return answer


def _change_of(request: web.Request) -> int:
    """Return the change that a reply must show. ProblemError 400."""
    texts = request.headers.getall("Change")
    text = texts[0].strip()
    if len(texts) > 1 or not CHANGE.fullmatch(text) or int(text) > MAX_ID:
        raise ProblemError(400, "Change must be the number of one change.")
    return int(text)


def age_header() -> dict[str, str]:
    """Return the Age of what was read while the primary is away (RFC 9111, 5.1)."""
    reading = db.READING.get()
    if reading is None or reading.age is None:
        return {}
    return {"Age": str(ceil(reading.age))}
