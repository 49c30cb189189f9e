"""Long reads: each caller has a share of them, and nothing is read for nobody."""

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, cast

from aiohttp import web

import db
from api.listing import PageQuery, RunQuery
from api.responses import CALLER

if TYPE_CHECKING:
    from api.connections import ClientProtocol

SHARE = 2
"""How many pages of long reads are read for one caller at a time."""
TURN_SECONDS = 5.0
"""How long a request may wait for its first page."""


class Shares:
    """Lets the long reads of one caller wait for each other, and not those of others.

    A caller is the name of a token, else an address.
    """

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

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
        caller = request.get(CALLER) or request.remote or ""
        self._users[caller] += 1
        turn = self._turns.setdefault(caller, asyncio.Semaphore(SHARE))
        try:
            async with asyncio.timeout(
                None if request.writer.output_size else TURN_SECONDS
            ):
                await turn.acquire()
        except TimeoutError:
            text = "too many long reads of this caller are waiting"
            raise db.OverloadedError(text, 1) from None
        else:
            try:
                _check_client(request)
                return await scan(query, after, limit)
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
