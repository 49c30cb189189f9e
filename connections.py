"""Limits on slow and many clients, where aiohttp 3.14 has no setting for them."""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from time import time
from typing import Any, ClassVar, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod
from yarl import URL

from handlers import unmatched
from middlewares import CALLERS_ID, TELEMETRY, answer
from replies import REQUEST_ID, Problem, Reply
from telemetry import Telemetry

LOG = logging.getLogger("server")

HEAD_SECONDS = 15.0
"""How long the head of a request may take to come."""
WRITE_SECONDS = 15.0
"""How long a client may leave what was sent to it unread."""
UNSENT_BYTES = 128 * 1024
"""What the kernel keeps for a client that does not read; so is seen what it reads."""
IDLE_SECONDS = 75.0
"""How long a connection may stay without a request; longer than proxies keep theirs."""

LINGER_SECONDS = 2.0
"""How long to read on what was refused, so that the client can read why."""
FINISH_SECONDS = 0.05
"""How often to look whether a client that sends no more has all its answers."""

LOW_WATER: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class Connection(web.RequestHandler):
    """A client's connection."""

    __slots__ = (
        "beginning",
        "head_since",
        "pipe",
        "server",
        "telemetry",
        "unread",
        "unread_since",
        "unreadable",
    )

    def __init__(self, server: "Server", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **server.settings)
        self.server = server
        self.telemetry = server.telemetry
        self.unreadable: Exception | None = None
        self._request_factory = self._make_request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the head of the first request."""
        self.head_since: float | None = self._loop.time()
        self.unread, self.unread_since = 0, 0.0
        self.pipe = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if LOW_WATER is not None and (pipe := transport.get_extra_info("socket")):
            pipe.setsockopt(socket.IPPROTO_TCP, LOW_WATER, UNSENT_BYTES)
        super().connection_made(transport)
        task: asyncio.Task[None] | None = self._task_handler
        if task is not None:
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Close the connection, whatever ended the task that serves it.

        aiohttp leaves it open, and nothing would ever read it again.
        """
        if not task.cancelled() and (fault := task.exception()) is not None:
            LOG.error("a connection broke off: %s", fault, exc_info=fault)
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and note when a head began that is not whole yet."""
        self.beginning = data[:1024]
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._fail_body()
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self._loop.time()

    def _fail_body(self) -> None:
        """Tell a handler that waits for a body that the rest of it is not HTTP.

        aiohttp takes the rest for another request, and lets the handler wait.
        """
        request = self._current_request
        if request is not None and not request.content.is_eof():
            self._messages.pop()
            request.content.set_exception(web.RequestPayloadError("not HTTP"))
            request.content.feed_eof()
            self.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to stay open for a moment: aiohttp would close at once.

        A client may close its half of the connection and wait for the answer
        (RFC 9293, section 3.6).
        """
        self.finish()
        return not self._is_idle()

    def finish(self) -> None:
        """Close once all that came before the end of the input is answered."""
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("cut short"))
            request.content.feed_eof()  # nor does aiohttp go on reading
        if self._is_idle():
            self.force_close()
        elif self.transport is not None:
            self._loop.call_later(FINISH_SECONDS, self.finish)

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._messages

    def cut_if_slow(self, now: float) -> None:
        """Close a connection that has kept us waiting too long."""
        if self.head_since is not None and now - self.head_since > HEAD_SECONDS:
            self.force_close()
        size = self.pipe.get_write_buffer_size()
        if size != self.unread or not size:
            self.unread, self.unread_since = size, now
        elif now - self.unread_since > WRITE_SECONDS:
            self.pipe.abort()

    def resume_writing(self) -> None:
        """Note that the client reads, and go on writing."""
        self.unread = 0
        super().resume_writing()

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """Return the request of a message, to `/` if its target cannot be read.

        yarl raises UnicodeError for a host like `xn--` where aiohttp catches nothing.
        """
        make = self.server.request_factory
        try:
            return make(message, payload, protocol, writer, task)
        except Exception as exc:
            self.unreadable = exc
            message = message._replace(url=URL("/"))
            return make(message, payload, protocol, writer, task)

    def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Handle a request; one with a target that cannot be read is answered 400."""
        fault = self.unreadable
        if fault is not None:

            async def refuse(request: web.BaseRequest) -> web.StreamResponse:
                return self.handle_error(request, 400, fault)

            request_handler = refuse
        return super()._handle_request(request, start_time, request_handler)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the application, without an echo of it."""
        fault = exc if isinstance(exc, Exception) else RuntimeError(message)
        if status == 400:
            fault = Problem(400, "This is not HTTP as this server speaks it.")
            line = REQUEST_LINE.match(self.beginning)
            if isinstance(exc, BadHttpMethod) and line is not None:
                fault = unmatched(line[1].decode("ascii").partition("?")[0])
        reply = self.reply_to(fault, request)
        reply.force_close()
        return reply

    def reply_to(self, fault: Exception, request: web.BaseRequest) -> Reply:
        """Return the answer to what the middleware never saw, and note it."""
        given = request.headers.get("X-Request-Id") or _id_in(self.beginning)
        request_id = given if CALLERS_ID.fullmatch(given) else next(self.telemetry.ids)
        request[REQUEST_ID] = request_id
        reply = answer(fault, request, request_id)
        self.telemetry.note(
            (time(), request_id, "_OTHER", "unparsed", reply.status, 0.0, "")
        )
        return reply

    def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send an answer; what aiohttp raised past the middleware, as a problem."""
        if type(resp) is not Reply and isinstance(resp, web.HTTPException):
            resp = self.reply_to(resp, request)
        return super().finish_response(request, resp, start_time)


REQUEST_LINE = re.compile(rb"[!#-'*+.^-z|~A-Z0-9-]{1,32} (/[!-~]*) HTTP/1\.[01]\r?\n")
ID_LINE = re.compile(rb"(?i)\nX-Request-Id:[ \t]*([!-~]+)[ \t]*\r\n")


def _id_in(beginning: bytes) -> str:
    """Return the id that a head brings which no parser could read."""
    head = beginning.partition(b"\r\n\r\n")[0] + b"\r\n"
    line = ID_LINE.search(head)
    return line[1].decode("ascii") if line else ""


class Refusal(asyncio.Protocol):
    """Sends a client away while too many connections are open."""

    def __init__(self, request_id: str) -> None:
        problem = Problem(503, "Too many connections.", headers={"Retry-After": "1"})
        self.answer = problem.reply(request_id).to_closed_connection()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer before anything is asked."""
        pipe = cast(asyncio.Transport, transport)
        pipe.write(self.answer)
        pipe.close()


def is_receiving(connection: web.RequestHandler) -> bool:
    """Return whether a request is under way of which not all has come."""
    request = connection._current_request
    return request is not None and not request.content.is_eof()


class Server(web.Server):
    """Accepts connections up to a limit, and cuts the slow ones."""

    settings: ClassVar[dict[str, Any]] = {
        "keepalive_timeout": IDLE_SECONDS,
        "lingering_time": LINGER_SECONDS,
        "auto_decompress": False,  # a body with a Content-Encoding is refused
        "access_log": None,
    }

    def __init__(self, server: web.Server, most: int, telemetry: Telemetry) -> None:
        super().__init__(server.request_handler, request_factory=server.request_factory)
        self.most = most
        self.telemetry = telemetry
        self._sweep = self._loop.call_later(1, self.sweep)

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        if len(self._connections) >= self.most:
            # asyncio's type here is any protocol; aiohttp's names its own
            return cast(web.RequestHandler, Refusal(next(self.telemetry.ids)))
        return Connection(self, self._loop)

    def sweep(self) -> None:
        """Cut the connections that are slow, once a second."""
        now = self._loop.time()
        self._sweep = self._loop.call_later(1, self.sweep)
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.cut_if_slow(now)

    def pre_shutdown(self) -> None:
        """Take no more requests, but let come what is still to come of those begun.

        aiohttp's close() reads no more, and the rest of a body would never come.
        """
        for connection in self.connections:
            if not is_receiving(connection):
                connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """Let the requests in flight finish, then close every connection."""
        self._sweep.cancel()
        until = self._loop.time() + (timeout or 0.0)
        while self._loop.time() < until and any(map(is_receiving, self.connections)):
            await asyncio.sleep(FINISH_SECONDS)
            self.pre_shutdown()
        await super().shutdown(timeout)


class Runner(web.AppRunner):
    """aiohttp's runner, with our server."""

    def __init__(self, app: web.Application, most: int, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._most = most

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return Server(server, self._most, self.app[TELEMETRY])
