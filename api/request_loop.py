"""The loop that answers the requests of a connection, one after the other.

aiohttp's own gives each request a task, and asks its router each time: a fifth of what
a short list costs. This one runs the requests in the task of the connection, and asks
the router only for what PlainRoutes does not know. Of aiohttp's private names this
module uses `_ErrInfo`, `_buffer_paused`, `_close`, `_current_request`, `_force_close`,
`_handle_request`, `_handler_waiter`, `_keepalive`, `_keepalive_handle`,
`_keepalive_timeout`, `_lingering_time`, `_make_error_handler`, `_messages`,
`_msg_queue_resume_size`, `_next_keepalive_close_time`, `_parser`, `_process_keepalive`,
`_request_in_progress`, `_resume_reading_if_drained`, `_task`, `_task_handler` and
`_waiter`, as they are in AIOHTTP_VERSION.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, PayloadAccessError, _ErrInfo

from api.routing import Handler, PlainRoutes

LOG = logging.getLogger("server")
AIOHTTP_VERSION = "3.14.5"

HANDLED = PayloadAccessError()
"""What is raised where a body is read after the response."""


class RequestLoop(web.RequestHandler):
    """The part of a connection's protocol that answers the requests in turn."""

    __slots__ = ("_plain_routes", "_writer", "server")

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        plain_routes: PlainRoutes,
        **settings: Any,
    ) -> None:
        super().__init__(server, loop=loop, **settings)
        self.server = server
        self._plain_routes = plain_routes
        self._writer: StreamWriter | None = None
        """What no response has used yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to answer requests."""
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

    async def start(self) -> None:
        """Answer requests until the connection ends."""
        goes_on = True
        while goes_on and not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                if self._force_close:
                    return
            message, body = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            most = self._msg_queue_resume_size
            if self._buffer_paused and len(self._messages) <= most:
                self._resume_reading_if_drained()
            goes_on = await self._answer(message, body)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _answer(
        self, message: RawRequestMessage | _ErrInfo, body: StreamReader
    ) -> bool:
        """Answer one request; return whether another may follow."""
        handler: Callable[..., Awaitable[web.StreamResponse]] | None = None
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        if self._writer is None:
            self._writer = StreamWriter(self, self._loop)
        make: Callable[..., Any] = self.server.request_factory
        request = make(message, body, self, self._writer, self._task_handler)
        try:
            if handler is None and (plain := self._plain_routes.find(request)):
                response, is_gone = await self._handle_plainly(request, plain)
            else:
                handler, self._writer = handler or self.server.request_handler, None
                finished = await self._handle_request(request, None, handler)
                response, is_gone = finished
            if is_gone:
                return False
            self._keepalive = bool(response.keep_alive)
            if not body.is_eof():
                await self._read_rest(body)
            body.set_exception(HANDLED)
        except ConnectionError:
            return False
        except Exception:
            LOG.exception("a connection broke off")
            self.force_close()
        except BaseException:
            self.force_close()
            raise
        finally:
            request._task = None  # a circle
        return self._keep_open()

    async def _handle_plainly(
        self, request: web.Request, handler: Handler
    ) -> tuple[web.StreamResponse, bool]:
        """Do what `_handle_request` does, for a handler that `instrument` returned."""
        # It turns all errors into responses, but for ConnectionError.
        self._request_in_progress, self._current_request = True, request
        try:
            response = await handler(request)
            self._current_request = None
            if not self.write_at_once(request, response):
                self._writer = None
                return await self.finish_response(request, response, None)
            if self.writing_paused:
                await request.writer.drain()
            return response, False
        finally:
            self._request_in_progress, self._current_request = False, None
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)

    def write_at_once(
        self, request: web.BaseRequest, response: web.StreamResponse
    ) -> bool:
        """Send a response in one step; return whether that is all there is to do."""
        raise NotImplementedError

    async def _read_rest(self, body: StreamReader) -> None:
        """Read what is left of a body, for a while, so that the next head is found."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not (body.is_eof() or self._force_close):
                    await body.readany()
        except TimeoutError:
            self.close()

    def _keep_open(self) -> bool:
        """Return whether to wait for another request, and see to its end."""
        if not self._keepalive or self._close or self._force_close:
            return False
        until = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = until
        if self._keepalive_handle is None:
            end = self._process_keepalive
            self._keepalive_handle = self._loop.call_at(until, end)
        return True
