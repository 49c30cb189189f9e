"""What every request passes through: its id, who may come in, its errors, its line."""

import logging
import re
from functools import lru_cache
from time import time

from aiohttp import HttpVersion10, HttpVersion11, web

import db
from access import Door
from bodies import MAX_BODY
from handlers import NOWHERE, Handler, Route
from replies import CALLER, REQUEST_ID, Problem, Reply, invalid
from telemetry import Telemetry

LOG = logging.getLogger("server")
TELEMETRY: web.AppKey[Telemetry] = web.AppKey("telemetry", Telemetry)

CLIENT_GONE = 499
"""Stands in the log and the metrics for the status of what nobody waited for."""

HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
CALLERS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def observed(route: Route, door: Door, telemetry: Telemetry) -> Handler:
    """Return the handler of a route, inside what every request passes through.

    Put around each handler, since a middleware of aiohttp's costs each request two
    more coroutines and a search for the chain to run.
    """
    handler, access, query = route.handler, route.access, route.query
    path, anywhere = route.path, route.path == NOWHERE.path
    ids, note = telemetry.ids, telemetry.note

    async def observe(request: web.Request) -> web.StreamResponse:
        began = time()
        telemetry.in_flight += 1
        headers = request.headers
        given = headers.get("X-Request-Id")
        request_id = given if given and CALLERS_ID.fullmatch(given) else next(ids)
        request[REQUEST_ID] = request_id
        caller, status = "", CLIENT_GONE
        try:
            if door.tokens is not None and request.method != "OPTIONS":
                caller = request[CALLER] = door.caller(request, access)
            _check_host(headers.get("Host", ""))
            if request.version != HttpVersion11:
                _check_version(request)
            if "Content-Encoding" in headers and not anywhere:
                raise Problem(415, "A body must come without a Content-Encoding.")
            if "?" in request.raw_path and not anywhere:
                _check_query(request, query)
            response = await handler(request)
            status = response.status
        except Exception as exc:
            response = answer(exc, request, request_id)
            status = response.status
        finally:
            ended = time()
            took = ended - began
            telemetry.in_flight -= 1
            note((ended, request_id, request.method, path, status, took, caller))
        if isinstance(response, Reply):
            response.request_id = request_id
            if door.origins:
                response.add(door.cross_origin(request))
        return response

    return observe


async def expectation(request: web.Request) -> None:
    """Let a body come that waits for leave (RFC 9110, section 10.1.1). Problem 417.

    aiohttp's own puts what it does not know into its answer, and fails where that is
    no text.
    """
    if request.headers["Expect"].lower() != "100-continue":
        raise Problem(417, "Expect may only be 100-continue.")
    if request.version >= (1, 1) and (request.content_length or 0) <= MAX_BODY:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer was written yet


@lru_cache(1000)
def _check_host(host: str) -> None:
    # RFC 9112, section 3.2; the parser refuses none and two of them
    if not HOST.fullmatch(host):
        raise Problem(400, "The Host header is not a host.")


def _check_version(request: web.Request) -> None:
    if request.version != HttpVersion10:
        raise Problem(400, "This server speaks HTTP/1.1 and HTTP/1.0.")


def _check_query(request: web.Request, known: frozenset[str]) -> None:
    unknown = sorted(request.query.keys() - known)
    if unknown:
        raise invalid(
            *((f"/{name[:200]}", "There is no such parameter.") for name in unknown)
        )


def answer(exc: Exception, request: web.BaseRequest, request_id: str) -> Reply:
    """Return the problem that an exception is to the client; log what nobody knows.

    ConnectionResetError when there is no client any more.
    """
    transport = request.transport
    gone = transport is None or transport.is_closing()
    if gone and isinstance(exc, ConnectionError):
        raise ConnectionResetError("the client has gone") from exc
    if request.writer.output_size > 0:  # a list was under way: cut it, visibly
        if not isinstance(exc, ConnectionError):
            unknown = exc if problem_of(exc) is None else None
            extra = {"request_id": request_id}
            LOG.error("a list broke off: %s", exc, exc_info=unknown, extra=extra)
        request.protocol.force_close()
        raise ConnectionResetError("the list broke off") from exc
    problem = problem_of(exc)
    if problem is None:
        LOG.error("unknown fault", exc_info=exc, extra={"request_id": request_id})
        problem = Problem(500, "Something went wrong here; the log has it.")
    reply = problem.reply(request_id)
    if problem.status in (408, 413):  # the rest of the body is not worth reading
        reply.force_close()
    return reply


def problem_of(exc: Exception) -> Problem | None:
    """Return what an exception that is known means, None for any other."""
    match exc:
        case Problem():
            return exc
        case db.NotFoundError():
            return Problem(404, f"There is no such {exc.args[0]}.")
        case db.PreconditionFailedError():
            return Problem(412, f"The {exc.args[0]} has changed since.")
        case db.KeyReusedError():
            return invalid(
                ("", "The Idempotency-Key came before with another request.")
            )
        case db.OverloadedError():
            return Problem(503, "Too busy.", headers={"Retry-After": str(exc.args[1])})
        case db.UnavailableError():
            return Problem(503, f"Not now: {exc}.", headers={"Retry-After": "1"})
        case db.DiskFullError():
            return Problem(507, "There is no space left to store it.")
        case web.HTTPException():
            return Problem(exc.status, f"{exc.reason}.")
    return None
