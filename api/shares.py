"""Long reads: each caller has a share of them, and nothing is read for nobody."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, cast

from aiohttp import web

import db
from api.listing import PageQuery, RunQuery
from api.responses import CALLER

if TYPE_CHECKING:
    from api.connections import ClientProtocol

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SHARE = 2
"""How many pages of long reads are read for one caller at a time."""
TURN_SECONDS = 5.0
"""How long a request may wait for its first page, or its report."""
REPORT_SECONDS = 7.0
"""How long a count or a sum may take."""
CHECK_SECONDS = 0.25
"""How often to look whether the client of a report is still there."""
TOO_LONG = (
    f"it took longer than {REPORT_SECONDS:.0f} seconds: ask for less at a time, with "
    "customer_id, purchased_from or purchased_before"
)


class Shares:
    """Lets the long reads of one caller wait for each other, and not those of others.

    A caller is the name of a token, else an address. It has SHARE turns for pages, and
    one for reports.
    """

    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], asyncio.Semaphore] = {}
        self._users: Counter[tuple[str, int]] = Counter()

    def of(self, request: web.Request, scan: RunQuery) -> RunQuery:
        """Return a `scan` that waits for the turn of the request's caller.

        It raises ConnectionResetError when the client has gone, OverloadedError.
        """
        return partial(self._scan, request, scan)

    async def _scan(
        self,
        request: web.Request,
        scan: RunQuery,
        query: PageQuery,
        after: int,
        limit: int,
    ) -> db.Page:
        patience = None if request.writer.output_size else TURN_SECONDS
        async with self._turn(request, SHARE, patience):
            _check_client(request)
            return await scan(query, after, limit)

    async def report(
        self, request: web.Request, report: Callable[[*Ts], Awaitable[T]], *args: *Ts
    ) -> T:
        """Run a count or a sum in its caller's turn; stop it when the client has gone.

        ConnectionResetError then, OverloadedError, UnavailableError if it is too long.
        """
        async with self._turn(request, 1, TURN_SECONDS):
            _check_client(request)
            running = asyncio.ensure_future(report(*args))
            end = asyncio.get_running_loop().time() + REPORT_SECONDS
            try:
                while not (await asyncio.wait([running], timeout=CHECK_SECONDS))[0]:
                    _check_client(request)
                    if asyncio.get_running_loop().time() > end:
                        raise db.UnavailableError(TOO_LONG)
                return running.result()
            finally:
                running.cancel()

    @asynccontextmanager
    async def _turn(
        self, request: web.Request, share: int, patience: float | None
    ) -> AsyncIterator[None]:
        """Wait for a turn of the request's caller. OverloadedError."""
        caller = request.get(CALLER) or request.remote or "", share
        self._users[caller] += 1
        turn = self._turns.setdefault(caller, asyncio.Semaphore(share))
        try:
            async with asyncio.timeout(patience):
                await turn.acquire()
        except TimeoutError:
            text = "too many long reads of this caller are waiting"
            raise db.OverloadedError(text, 1) from None
        else:
            try:
                yield
            finally:
                turn.release()
        finally:
            self._users[caller] -= 1
            if not self._users[caller]:
                del self._users[caller], self._turns[caller]


SHARES: web.AppKey[Shares] = web.AppKey("shares", Shares)


def _check_client(request: web.Request) -> None:
    """Raise ConnectionResetError when nobody seems to wait for the answer."""
    transport = request.transport
    if transport is not None and not transport.is_closing():
        protocol = cast("ClientProtocol", request.protocol)
        if request.writer.output_size or not protocol.is_abandoned():
            return
        protocol.force_close()
    raise ConnectionResetError("the client has gone")
