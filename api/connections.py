"""Connections of clients: what cannot be parsed, slow and many clients, the end.

aiohttp has no setting for these: of its private names this module uses `_close`,
`_buffer_paused`, `_current_request`, `_ErrInfo`, `_force_close`, `_handle_request`,
`_make_server`, `_messages`, `_next_keepalive_close_time`, `_parser`,
`_pause_reading_for_buffer`, `_reading_paused` and `_waiter`, as they are in the
AIOHTTP_VERSION of `api/request_loop.py`.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

from api.framing import Framing, check_codings, not_http, problem_of
from api.middleware import CORS, METRICS, respond_outside
from api.refusal import RefusalProtocol
from api.request_loop import RequestLoop
from api.responses import ProblemError, RawResponse
from api.routing import ROUTE_TABLE, PlainRoutes
from api.targets import origin_form
from runtime.limits import release_memory

LOG = logging.getLogger("server")

HEAD_SECONDS = 15.0
"""How long the head of a request may take to come."""
STRANGE_SECONDS = 0.5
"""How long one may take that begins with no method in use."""
WRITE_SECONDS = 15.0
"""How long a client may leave what was sent to it unread."""
UNSENT_BYTES = 128 * 1024
"""The most that the kernel buffers for a client, so that we see whether it reads."""
IDLE_SECONDS = 75.0  # without a request; longer than proxies keep theirs
MAX_QUEUED = 32
"""The most requests of a connection that wait for those before them."""
LINGER_SECONDS = 2.0
"""How long to read on what was refused, so that the client can read why."""
FINISH_SECONDS = 0.05
"""How often to look whether a client has ended, or a body has come at a stop."""
ABANDONED_SECONDS = 1.0
"""How long after a client's last byte it is taken to wait for an answer still."""

LOW_WATER: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
SINCE = attrgetter("_next_keepalive_close_time")
FEW_CONNECTIONS = 100  # their memory is not worth releasing when they end
LOOK_SECONDS = 0.1  # how often a full server looks for idle connections

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
FinishedResponse = Coroutine[Any, Any, tuple[web.StreamResponse, bool]]


class ClientProtocol(RequestLoop):
    """The protocol of a client's connection."""

    __slots__ = (
        *("bad_head", "ended_at", "framing", "head_since", "instead", "is_lingering"),
        *("payload", "pipe", "unanswered", "unparsed", "unread", "unread_since"),
    )
    server: "Server"

    def __init__(self, server: "Server", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop, server.plain_routes, **server.settings)
        self.framing = Framing()
        self.unparsed = b""
        """What came while requests or bytes of a body had to wait."""
        self.payload: StreamReader = EMPTY_PAYLOAD
        """The body of the last request."""
        self.unanswered = 0
        """How many requests wait for the end of their answers."""
        self.bad_head: bytes | None = None
        """The head of what could not be parsed; nothing is read after that."""
        self.is_lingering = False
        """Whether all is answered, and what still comes is not looked at."""
        self.ended_at: float | None = None
        """When the client ended its half of the connection."""
        self.instead: ProblemError | None = None
        """What is answered in place of the last request, whose target is bad."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the head of the first request."""
        self.head_since: float | None = self.server.loop.time()
        self.unread, self.unread_since = 0, 0.0
        self.pipe = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if LOW_WATER is not None and (pipe := transport.get_extra_info("socket")):
            pipe.setsockopt(socket.IPPROTO_TCP, LOW_WATER, UNSENT_BYTES)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and note the time at which an incomplete head began."""
        if self._force_close or self._close or self.bad_head is not None:
            return
        self._parse(self.unparsed + data if self.unparsed else data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self.server.loop.time()

    def _parse(self, data: bytes) -> None:
        """Give the parser one head or one body at a time."""
        piece = self.unparsed = b""
        parser: Any = self._parser
        try:
            while True:
                if self._reading_paused or len(self._messages) >= MAX_QUEUED:
                    self.unparsed = data
                    break
                piece, data = self.framing.cut(data)
                messages, upgraded, _ = parser.feed_data(piece)
                if upgraded:  # whatever it would change to, it is not accepted
                    parser.set_upgraded(False)
                if messages:
                    self._queue(*messages[0])
                if not data:
                    break
        except HttpProcessingError as exc:
            self._fail(problem_of(exc, piece, self.server.route_table), piece)
        except ProblemError as exc:
            self._fail(exc, bytes(self.framing.head))
        if len(self._messages) >= MAX_QUEUED and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _queue(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> None:
        """Let a request be answered in its turn. ProblemError 501 for its framing."""
        if isinstance(message, RawRequestMessage):
            if "Transfer-Encoding" in message.headers:
                check_codings(message.headers.getall("Transfer-Encoding"))
            if body is not EMPTY_PAYLOAD:
                self.framing.begin_body(message, body)
            self.payload = body
        self._messages.append((message, body))
        self.unanswered += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, problem: ProblemError, head: bytes) -> None:
        """Answer what could not be parsed after all that came before it."""
        self.bad_head = head
        if self.payload.is_eof():
            self._queue(_ErrInfo(problem.status, problem, ""), EMPTY_PAYLOAD)
        else:
            self._cut_body("not HTTP")

    def _cut_body(self, reason: str) -> None:
        """Tell a handler that waits for a body that the rest will not come."""
        # aiohttp takes the rest for another request, and lets the handler wait.
        if self.unanswered:
            self.payload.set_exception(web.RequestPayloadError(reason))
        self._close = not self._messages
        self.payload.feed_eof()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to stay open for a moment: aiohttp would close at once."""
        # A client may close its half of the connection and wait for the answer
        # (RFC 9293, section 3.6).
        if self.is_idle() and not self.framing.head:
            self.force_close()
            return False
        self.ended_at = self.server.loop.time()
        if not self.payload.is_eof():
            self._cut_body("cut short")
        elif self.framing.head and self.bad_head is None:
            self._fail(not_http(), bytes(self.framing.head))
        self._close = not self._messages
        return True

    def is_abandoned(self) -> bool:
        """Return whether nobody seems to wait for what takes long."""
        # A client that has ended its half of the connection may have gone altogether;
        # that shows only when something is sent to it.
        if self.transport is None or self.transport.is_closing():
            return True
        ended = self.ended_at
        return ended is not None and self.server.loop.time() - ended > ABANDONED_SECONDS

    def is_idle(self) -> bool:
        """Return whether no request is under way; perhaps a part of a head has come."""
        waits = self._waiter is not None and not self._messages
        return waits or self.is_lingering

    def cut_if_slow(self, now: float) -> None:
        """Close a connection whose client is too slow."""
        if self.bad_head is not None:
            self.head_since = None
        elif self.head_since is None and self.framing.head and self.is_idle():
            self.head_since = now
        waited = 0.0 if self.head_since is None else now - self.head_since
        if waited > STRANGE_SECONDS and self.framing.is_strange():
            self._fail(not_http(), bytes(self.framing.head))
        elif waited > HEAD_SECONDS:
            self.force_close()
        size = self.pipe.get_write_buffer_size()
        if size != self.unread or not size:
            self.unread, self.unread_since = size, now
        elif now - self.unread_since > WRITE_SECONDS:
            self.pipe.abort()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading if that was paused: aiohttp calls this after every body."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def resume_writing(self) -> None:
        """Note that the client reads, and go on writing."""
        self.unread = 0
        super().resume_writing()

    def _handle_request(
        self, request: web.BaseRequest, start_time: float | None, handler: Handler
    ) -> FinishedResponse:
        """Handle a request, or answer that its target is bad."""
        if (problem := self.instead) is not None:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return self.handle_error(request, problem.status, problem)

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
        response = self._respond_to(error, request)
        response.force_close()
        return response

    def _respond_to(self, error: Exception, request: web.BaseRequest) -> RawResponse:
        """Return the response to an error that `dispatch` never saw, and record it."""
        outside = request if request.headers else self.bad_head or b""
        return self.server.respond_outside(error, outside)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start: float | None
    ) -> FinishedResponse:
        """Send a response; an error that aiohttp raised itself as a problem."""
        if type(resp) is not RawResponse and isinstance(resp, web.HTTPException):
            resp = self._respond_to(resp, request)
        self.unanswered -= 1
        if self.bad_head is not None and not self._messages:
            self._close = True
            return self._finish_last(request, resp, start)
        self._close = self._close or (self.ended_at is not None and not self._messages)
        return super().finish_response(request, resp, start)

    def write_at_once(
        self, request: web.BaseRequest, response: web.StreamResponse
    ) -> bool:
        """Send a response, if it is whole and others may follow; say whether it is."""
        if type(response) is not RawResponse or self.bad_head or self.ended_at:
            return False
        self.unanswered -= 1
        response.write(request)
        return True

    async def _finish_last(
        self, request: web.BaseRequest, resp: web.StreamResponse, start: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the last response, and read on so that the client can read it."""
        # To close with something unread resets the connection, and the answer with it
        # (RFC 9112, section 9.6).
        finished = await super().finish_response(request, resp, start)
        if self.ended_at is None and not self.pipe.is_closing():
            self.pipe.write_eof()
        self.is_lingering = True
        for _ in range(round(LINGER_SECONDS / FINISH_SECONDS)):
            if self.transport is None or self.ended_at is not None:
                break
            await asyncio.sleep(FINISH_SECONDS)
        return finished


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
        self.max_connections = runner.max_connections
        self.route_table = runner.app[ROUTE_TABLE]
        self.plain_routes = PlainRoutes(runner.app, self.route_table.added)
        self.respond_outside = partial(
            respond_outside, runner.app[CORS], runner.app[METRICS]
        )
        self.refusals, self.loop = set[RefusalProtocol](), asyncio.get_running_loop()
        self._sweep = self.loop.call_later(1, self.sweep)
        self._idle: list[ClientProtocol] = []
        """Connections without a request when they were looked at, longest last."""
        self._looked_at, self._most = 0.0, 0
        """When they were, and the most connections since memory was released."""

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        self._most = max(self._most, len(self._connections))
        if len(self._connections) < self.max_connections or self._make_room():
            return ClientProtocol(self, self.loop)
        # asyncio accepts any protocol here; aiohttp's type names its own
        refusal = RefusalProtocol(self.respond_outside, self.refusals)
        return cast(web.RequestHandler, refusal)

    def _make_room(self) -> bool:
        """Close the connection that is idle for longest; return whether one is."""
        now = self.loop.time()
        if not self._idle and now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._idle = [*filter(ClientProtocol.is_idle, self._clients())]
            self._idle.sort(key=SINCE, reverse=True)
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle() and connection.transport is not None:
                connection.force_close()
                return True
        return False

    def make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.Request:
        """Return the request of a message, to `/` if its target is bad."""
        if message.path[:1] != "/":
            try:
                message = origin_form(message)
            except ValueError:
                cast(ClientProtocol, protocol).instead = not_http()
                message = message._replace(url=URL("/"))
        return web.Request(message, payload, protocol, writer, task, self.loop)

    def sweep(self) -> None:
        """Close the connections of slow clients, once a second."""
        now = self.loop.time()
        self._sweep = self.loop.call_later(1, self.sweep)
        if self._most > 2 * len(self._connections) + FEW_CONNECTIONS:
            self._most = 0
            release_memory()
        for connection in self._clients():
            connection.cut_if_slow(now)

    def _clients(self) -> list[ClientProtocol]:
        return cast(list[ClientProtocol], self.connections)  # as __call__ makes them

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
