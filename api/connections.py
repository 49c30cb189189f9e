"""Limits on slow and many clients, and what aiohttp's parser refuses.

aiohttp has no setting for either: of its private names this module uses
`_current_request`, `_handle_request`, `_make_server`, `_messages`, `_task_handler` and
`_waiter`, as they are in AIOHTTP_VERSION.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from time import time
from typing import Any, ClassVar, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod
from yarl import URL

from api.middleware import METRICS, REQUEST_ID_PATTERN, error_response
from api.responses import REQUEST_ID, ProblemError, RawResponse
from api.routing import ROUTE_TABLE

LOG = logging.getLogger("server")
AIOHTTP_VERSION = "3.14.5"

HEAD_SECONDS = 15.0
"""How long the head of a request may take to come."""
WRITE_SECONDS = 15.0
"""How long a client may leave what was sent to it unread."""
UNSENT_BYTES = 128 * 1024
"""The most that the kernel buffers for a client, so that we see whether it reads."""
IDLE_SECONDS = 75.0
"""How long a connection may stay without a request; longer than proxies keep theirs."""

LINGER_SECONDS = 2.0
"""How long to read on what was refused, so that the client can read why."""
FINISH_SECONDS = 0.05
"""How often to look whether a client that sends no more has all its answers."""

LOW_WATER: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)


REQUEST_LINE = re.compile(rb"[!#-'*+.^-z|~A-Z0-9-]{1,32} (/[!-~]*) HTTP/1\.[01]\r?\n")
ID_LINE = re.compile(rb"(?i)\nX-Request-Id:[ \t]*([!-~]+)[ \t]*\r\n")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
FinishedResponse = Coroutine[Any, Any, tuple[web.StreamResponse, bool]]


class ClientProtocol(web.RequestHandler):
    """The protocol of a client's connection."""

    __slots__ = (
        *("beginning", "head_since", "pipe", "server"),
        *("unread", "unread_since", "unreadable"),
    )

    def __init__(self, server: "Server", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **server.settings)
        self.server = server
        self.unreadable = False
        """Whether the target of the last request could not be read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the head of the first request."""
        self.head_since: float | None = self.server.loop.time()
        self.unread, self.unread_since = 0, 0.0
        self.pipe = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if LOW_WATER is not None and (pipe := transport.get_extra_info("socket")):
            pipe.setsockopt(socket.IPPROTO_TCP, LOW_WATER, UNSENT_BYTES)
        super().connection_made(transport)
        task: asyncio.Task[None] | None = self._task_handler
        if task is not None:
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Close the connection, whatever ended the task that serves it."""
        # aiohttp leaves it open, and nothing would ever read it again.
        if not task.cancelled() and (fault := task.exception()) is not None:
            LOG.error("a connection broke off: %s", fault, exc_info=fault)
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse the data, and note the time at which an incomplete head began."""
        self.beginning = data[:1024]
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._fail_body()
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self.server.loop.time()

    def _fail_body(self) -> None:
        """Tell a handler that waits for a body that the rest of it is not HTTP."""
        # aiohttp takes the rest for another request, and lets the handler wait.
        request = self._current_request
        if request is not None and not request.content.is_eof():
            self._messages.pop()
            request.content.set_exception(web.RequestPayloadError("not HTTP"))
            request.content.feed_eof()
            self.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to stay open for a moment: aiohttp would close at once."""
        # A client may close its half of the connection and wait for the answer
        # (RFC 9293, section 3.6).
        self.finish()
        return not self._is_idle()

    def finish(self) -> None:
        """Close once every request before the end of the input is answered."""
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("cut short"))
            request.content.feed_eof()  # nor does aiohttp go on reading
        if self._is_idle():
            self.force_close()
        elif self.transport is not None:
            self.server.loop.call_later(FINISH_SECONDS, self.finish)

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._messages

    def cut_if_slow(self, now: float) -> None:
        """Close a connection whose client is too slow."""
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

    def _handle_request(
        self, request: web.BaseRequest, start_time: float | None, handler: Handler
    ) -> FinishedResponse:
        """Handle a request; respond 400 to one whose target cannot be read."""
        if self.unreadable:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return self.handle_error(request, 400)

        return super()._handle_request(request, start_time, handler)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that never reached the application."""
        error = exc if isinstance(exc, Exception) else RuntimeError(message)
        if status == 400:
            error = ProblemError(400, "This is not HTTP as this server speaks it.")
            line = REQUEST_LINE.match(self.beginning)
            if isinstance(exc, BadHttpMethod) and line is not None:
                path = line[1].decode("ascii").partition("?")[0]
                error = self.server.route_table.problem(path)
        response = self.respond_to(error, request)
        response.force_close()
        return response

    def respond_to(self, error: Exception, request: web.BaseRequest) -> RawResponse:
        """Return the response to an error that `dispatch` never saw, and record it."""
        sent = request.headers.get("X-Request-Id", "")
        head = self.beginning.partition(b"\r\n\r\n")[0] + b"\r\n"
        if not sent and (line := ID_LINE.search(head)):  # the parser could not read it
            sent = line[1].decode("ascii")
        known = REQUEST_ID_PATTERN.fullmatch(sent)
        request_id = sent if known else next(self.server.metrics.request_ids)
        request[REQUEST_ID] = request_id
        response = error_response(error, request, request_id)
        self.server.metrics.record_request(
            (time(), request_id, "_OTHER", "unparsed", response.status, 0.0, "")
        )
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start: float | None
    ) -> FinishedResponse:
        """Send a response; an error that aiohttp raised itself as a problem."""
        if type(resp) is not RawResponse and isinstance(resp, web.HTTPException):
            resp = self.respond_to(resp, request)
        return super().finish_response(request, resp, start)


class RefusalProtocol(asyncio.Protocol):
    """Refuses a connection while too many are open."""

    def __init__(self, request_id: str) -> None:
        retry = {"Retry-After": "1"}
        problem = ProblemError(503, "Too many connections.", headers=retry)
        self.data = problem.response(request_id).last_bytes()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Respond before any request."""
        pipe = cast(asyncio.Transport, transport)
        pipe.write(self.data)
        pipe.close()


def is_receiving(connection: web.RequestHandler) -> bool:
    """Return whether a request is under way whose body is incomplete."""
    request = connection._current_request
    return request is not None and not request.content.is_eof()


class Server(web.Server):
    """Accepts connections up to a limit, and closes the slow ones."""

    settings: ClassVar[dict[str, Any]] = {
        "keepalive_timeout": IDLE_SECONDS,
        "lingering_time": LINGER_SECONDS,
        "auto_decompress": False,  # a body with a Content-Encoding is refused
        "access_log": None,
    }

    def __init__(self, runner: "Runner", server: web.Server) -> None:
        super().__init__(server.request_handler, request_factory=self.make_request)
        self._make: Callable[..., web.BaseRequest] = server.request_factory
        self.max_connections = runner.max_connections
        self.metrics = runner.app[METRICS]
        self.route_table = runner.app[ROUTE_TABLE]
        self.loop = asyncio.get_running_loop()
        self._sweep = self.loop.call_later(1, self.sweep)

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        if len(self.connections) >= self.max_connections:
            # asyncio accepts any protocol here; aiohttp's type names its own
            refusal = RefusalProtocol(next(self.metrics.request_ids))
            return cast(web.RequestHandler, refusal)
        return ClientProtocol(self, self.loop)

    def make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        *args: Any,
    ) -> web.BaseRequest:
        """Return the request of a message, to `/` if its target cannot be read."""
        # yarl raises UnicodeError for a host like `xn--` where aiohttp catches nothing.
        try:
            return self._make(message, payload, protocol, *args)
        except Exception:
            cast(ClientProtocol, protocol).unreadable = True
            message = message._replace(url=URL("/"))
            return self._make(message, payload, protocol, *args)

    def sweep(self) -> None:
        """Close the connections of slow clients, once a second."""
        now = self.loop.time()
        self._sweep = self.loop.call_later(1, self.sweep)
        for connection in self.connections:
            if isinstance(connection, ClientProtocol):
                connection.cut_if_slow(now)

    def pre_shutdown(self) -> None:
        """Accept no more requests, but read the rest of those that have begun."""
        # aiohttp's close() reads no more, and the rest of a body would never come.
        for connection in self.connections:
            if not is_receiving(connection):
                connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """Let the requests in flight finish, then close every connection."""
        self._sweep.cancel()
        until = self.loop.time() + (timeout or 0.0)
        while self.loop.time() < until and any(map(is_receiving, self.connections)):
            await asyncio.sleep(FINISH_SECONDS)
            self.pre_shutdown()
        await super().shutdown(timeout)


class Runner(web.AppRunner):
    """aiohttp's runner, with our server."""

    def __init__(
        self, app: web.Application, max_connections: int, **settings: Any
    ) -> None:
        super().__init__(app, **settings)
        self.max_connections = max_connections

    async def _make_server(self) -> web.Server:
        return Server(self, await super()._make_server())
