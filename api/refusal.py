"""What a client hears while too many connections are open."""

import asyncio
from collections.abc import Callable
from typing import cast

from api.framing import HEAD_END
from api.responses import ProblemError, RawResponse

MAX_REFUSALS = 24
"""The most clients that are told at a time why; others are just cut off."""
HEAD_SECONDS = 0.5
"""How long to wait for the head of a request, which may name an origin and an id."""
HEAD_BYTES = 8192
LINGER_SECONDS = 2.0
"""How long to read on, so that the client can read the answer."""


class RefusalProtocol(asyncio.Protocol):
    """Refuses a connection: answers 503, reads for a moment, closes.

    To close with something unread resets a connection, and the answer is lost (RFC
    9112, section 9.6). `respond` takes an error and the head of the request, returns
    the response and records it; `refusals` has all that are under way.
    """

    def __init__(
        self,
        respond: Callable[[Exception, bytes], RawResponse],
        refusals: "set[RefusalProtocol]",
    ) -> None:
        self.respond = respond
        self.refusals = refusals
        self.head = bytearray()
        self.refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for long."""
        self.pipe = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        if len(self.refusals) >= MAX_REFUSALS:
            self._response()
            self.pipe.abort()
        else:
            self.refusals.add(self)
            self.timer = self.loop.call_later(HEAD_SECONDS, self._refuse)

    def data_received(self, data: bytes) -> None:
        """Refuse the request when its head has come; read on after that."""
        if not self.refused:
            self.head += data[:HEAD_BYTES]
            if HEAD_END in self.head or len(self.head) >= HEAD_BYTES:
                self._refuse()

    def _response(self) -> RawResponse:
        headers = {"Retry-After": "1"}
        problem = ProblemError(503, "Too many connections.", headers=headers)
        return self.respond(problem, bytes(self.head))

    def _refuse(self) -> None:
        self.refused = True
        self.pipe.write(self._response().last_bytes())
        self.pipe.write_eof()
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(LINGER_SECONDS, self.pipe.abort)

    def eof_received(self) -> bool:
        """Refuse what has come, if that is still to do, and close."""
        if not self.refused:
            self._refuse()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.refusals.discard(self)
        if self.timer is not None:
            self.timer.cancel()
