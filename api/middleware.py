"""The frame of every request: id, authentication, errors, CORS, log and metrics."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import time
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from aiohttp import HttpVersion10, HttpVersion11, web

import db
from api.auth import Authenticator
from api.cors import Cors
from api.responses import (
    CALLER,
    MAX_ERRORS,
    REQUEST_ID,
    FieldError,
    ProblemError,
    RawResponse,
    invalid,
    invalid_field,
)
from api.routing import Handler, Route
from api.targets import HostCheck
from runtime.metrics import Metrics

LOG = logging.getLogger("server")
CORS: web.AppKey[Cors] = web.AppKey("cors", Cors)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)

UNKNOWN = ProblemError(500, "Something went wrong here; the log has it.")

CLIENT_GONE = 499
"""The status in log and metrics of a request whose client went away."""

REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Frame(NamedTuple):
    """What every request of an application passes through."""

    authenticator: Authenticator
    hosts: HostCheck
    cors: Cors
    metrics: Metrics


def instrument(route: Route, frame: Frame) -> Handler:
    """Return the handler of a route with all that every request needs around it.

    A middleware of aiohttp's would cost each request two more coroutines.
    """
    handler, path = route.handler, route.path
    authenticator, hosts, cors, metrics = frame
    ids, record = metrics.request_ids, metrics.record_request
    shows_targets = metrics.access_log.shows_targets
    check_host = HostCheck(any_host=True).check if route.is_probe else hosts.check

    async def dispatch(request: web.Request) -> web.StreamResponse:
        began = time()
        metrics.in_flight += 1
        sent = request.headers.get("X-Request-Id")
        request_id = sent if sent and REQUEST_ID_PATTERN.fullmatch(sent) else next(ids)
        request[REQUEST_ID] = request_id
        caller, status = "", CLIENT_GONE
        try:
            if authenticator.tokens is not None and request.method != "OPTIONS":
                caller = authenticator.authenticate(request, route.access)
            request[CALLER] = caller
            _check_head(request, route, check_host)
            response = await handler(request)
            status = response.status
        except Exception as exc:
            response = error_response(exc, request, request_id)
            status = response.status
        finally:
            metrics.in_flight -= 1
            ended, method = time(), request.method
            more = ended - began, caller, request.raw_path if shows_targets else ""
            record((ended, request_id, method, path, status, *more))
        if isinstance(response, RawResponse):
            response.request_id = request_id
            if cors.origins:
                response.add(cors.headers(request.headers, request.method))
        return response

    return dispatch


def expects(route: Route) -> Callable[[web.Request], Awaitable[None]]:
    """Return what a route does where a request has the header Expect."""
    return partial(_handle_expect, route.max_body)


async def _handle_expect(max_body: int, request: web.Request) -> None:
    """Send 100 Continue (RFC 9110, section 10.1.1). ProblemError 417."""
    # aiohttp's own handler echoes an unknown expectation, and fails where that is no
    # text.
    if request.headers["Expect"].lower() != "100-continue":
        raise ProblemError(417, "Expect may only be 100-continue.")
    if request.version >= (1, 1) and (request.content_length or 0) <= max_body:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the response was written yet


def _check_head(
    request: web.Request, route: Route, check_host: Callable[[str], None]
) -> None:
    """Raise ProblemError 400, 415, 421 or 422 for a head that no handler should see."""
    check_host(request.headers.get("Host", ""))
    if request.version != HttpVersion11:
        _check_version(request)
    if route.method == "*":  # whatever it holds, there is no such route
        return
    if "Content-Encoding" in request.headers:
        raise ProblemError(415, "A body must come without a Content-Encoding.")
    if "?" in request.raw_path:
        _check_query(request, route.query)


def _check_version(request: web.Request) -> None:
    if request.version != HttpVersion10:
        raise ProblemError(400, "This server speaks HTTP/1.1 and HTTP/1.0.")


def _check_query(request: web.Request, known: frozenset[str]) -> None:
    try:
        unquote_to_bytes(request.rel_url.raw_query_string).decode()
    except UnicodeDecodeError:  # yarl would put U+FFFD in its place
        raise invalid_field("", "The query is not UTF-8.") from None
    unknown = sorted(request.query.keys() - known)
    if unknown:
        detail = "There is no such parameter."
        raise invalid(*(FieldError(f"/{name[:200]}", detail) for name in unknown))


def error_response(
    exc: Exception, request: web.BaseRequest, request_id: str
) -> RawResponse:
    """Return the response to an exception; log an unknown one.

    ConnectionResetError if no response can be sent: the client has gone, or a list is
    under way, which is then cut visibly.
    """
    transport = request.transport
    gone = transport is None or transport.is_closing()
    if gone and isinstance(exc, ConnectionError):
        raise ConnectionResetError("the client has gone") from exc
    if request.writer.output_size > 0:
        if not isinstance(exc, ConnectionError):
            known = problem_of(exc)
            reason, unknown = (known.detail, None) if known else (exc, exc)
            extra = {"request_id": request_id}
            LOG.error("a list broke off: %s", reason, exc_info=unknown, extra=extra)
        request.protocol.force_close()
        raise ConnectionResetError("the list broke off") from exc
    problem = problem_of(exc)
    if problem is None:
        LOG.error("unknown fault", exc_info=exc, extra={"request_id": request_id})
        problem = UNKNOWN
    response = problem.response(request_id)
    if problem.status in (408, 413):  # the rest of the body is not worth reading
        response.force_close()
    return response


SENT_LINES = re.compile(rb"(?i)\n(X-Request-Id|Origin):[ \t]*([!-~]+)[ \t]*(?=\r\n)")


def headers_in(head: bytes) -> Mapping[str, str]:
    """Return what the answer to a head that cannot be parsed depends on."""
    lines = SENT_LINES.findall(head + b"\r\n")
    return {name.decode().title(): text.decode() for name, text in reversed(lines)}


def respond_outside(
    cors: Cors, metrics: Metrics, error: Exception, request: web.BaseRequest | bytes
) -> RawResponse:
    """Return the response to an error that `dispatch` never sees, and record it.

    `request` is the head where there is no request, or none that was parsed.
    """
    parsed = None if isinstance(request, bytes) else request
    sent = headers_in(request) if isinstance(request, bytes) else request.headers
    request_id = sent.get("X-Request-Id", "")
    if not REQUEST_ID_PATTERN.fullmatch(request_id):
        request_id = next(metrics.request_ids)
    if parsed is not None:
        parsed[REQUEST_ID] = request_id
        response = error_response(error, parsed, request_id)
    else:
        response = (problem_of(error) or UNKNOWN).response(request_id)
    if cors.origins:
        response.add(cors.headers(sent))
    record = (time(), request_id, "_OTHER", "unparsed", response.status, 0.0, "", "")
    metrics.record_request(record)
    return response


def _conflict(reason: str, rows: list[tuple[str, int, str]]) -> ProblemError:
    errors = [FieldError(f"/{noun}s/{number}", why) for noun, number, why in rows]
    return ProblemError(409, reason, errors[:MAX_ERRORS])


def problem_of(exc: Exception) -> ProblemError | None:
    """Return the problem of a known exception, None for any other."""
    match exc:
        case ProblemError():
            return exc
        case db.NotFoundError():
            return ProblemError(404, f"There is no such {exc.args[0]}.")
        case db.ErasedError():
            return ProblemError(410, "What this was about was deleted or erased since.")
        case db.PrunedError():
            return ProblemError(410, "The history does not reach back to this.")
        case db.ConflictError():
            return _conflict(*exc.args)
        case db.KeyReusedError():
            detail = "The Idempotency-Key came before with another request."
            return invalid_field("", detail)
        case db.OverloadedError():
            retry = {"Retry-After": str(exc.args[1])}
            return ProblemError(503, "Too busy.", headers=retry)
        case db.UnavailableError():
            retry = {"Retry-After": "1"}
            return ProblemError(503, f"Not now: {exc}.", headers=retry)
        case db.DiskFullError():
            return ProblemError(507, "There is no space left to store it.")
        case web.HTTPException():
            return ProblemError(exc.status, f"{exc.reason}.")
    return None
