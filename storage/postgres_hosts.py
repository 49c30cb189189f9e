"""The servers and parameters that a PostgreSQL URL names."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from storage.engine import StartupError
from storage.postgres_pooler import HostState, Pooler, asyncpg as asyncpg, probe

CONNECT_SECONDS = 2.0
"""How long one host may take to let a connection in, and to say what it is."""
WATCH_SECONDS = 2.0
"""How often the hosts that are not in use are asked whether one was promoted."""

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
ERRORS = (*LOST, asyncpg.PostgresError)
"""Every error of the driver."""

# The driver takes a parameter that it does not know for a setting of the server.
UNNEEDED = {
    "fallback_application_name": None,
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "keepalives": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "keepalives_count": None,
    "tcp_user_timeout": None,
    "sslcompression": {"0"},
    "sslsni": {"1"},
    "pgbouncer": {"true", "false"},
}
"""Parameters of libpq that change nothing here, with the values of which that holds:
every unit of work has a time limit of its own."""
REFUSED = {
    "channel_binding": "the driver has none: leave it out, use sslmode=verify-full",
    "gssencmode": "the driver has no encryption by GSSAPI: leave it out, use sslmode",
    "load_balance_hosts": "name the hosts in the order in which to try them",
    "replication": "this server reads and writes rows",
    "requirepeer": "use sslmode=verify-full",
    "require_auth": "the driver cannot choose",
    "hostaddr": "name the address as the host",
    "pgbouncer": "it is true or false; a pooler is found without it",
    "client_encoding": "leave it out: it is UTF-8",
    "sslcompression": "leave it out: nothing is compressed",
    "sslsni": "leave it out",
}
"""Parameters of libpq and of other drivers that cannot be honoured, and what to do."""


class StalePrimaryError(asyncpg.InterfaceError):  # type: ignore[misc]  # it has no types
    """A primary was found that another one has replaced."""


STALE_PRIMARY = (
    "the only primary found is behind one seen before; if an older database was "
    "restored on purpose, restart this server"
)
NO_PRIMARY = "it takes no writes, or is a standby"


class HostList:
    """The servers that a URL names, first the one in use.

    Of several it is the primary of the highest timeline, and never one of a lower
    timeline than was seen before: a server that was cut off from those which promoted
    another may take itself for the primary still. StartupError for a parameter that
    cannot be honoured.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        forced = ("pgbouncer", "true") in parse_qsl(parts.query)
        options, self.connect_seconds = read_parameters(parts.query)
        parts = parts._replace(query=urlencode(options))
        user, at, hosts = parts.netloc.rpartition("@")
        self.urls = [
            parts._replace(netloc=f"{user}{at}{host}").geturl()
            for host in hosts.split(",")
        ]
        # A standby accepts connections too, and lags behind; the URL may ask for one.
        self.asks = "target_session_attrs" in options
        self.pooler = Pooler(self.urls[0], forced)
        self.settings = {"application_name": "customer-purchase-server"}
        if "application_name" in options:
            self.settings = {}
        self.generation = 0
        """Counts the times when all connections were found to be of no more use."""
        self.timeline = 0
        """The highest that a primary was seen to have."""
        self._chosen = -1
        """The generation for which the first host was chosen."""
        self._choice: asyncio.Task[None] | None = None

    @property
    def is_watched(self) -> bool:
        """Return whether there is a choice of hosts."""
        return len(self.urls) > 1 and not self.asks

    async def connect(self, writing: bool = True) -> Any:
        """Return a connection to the primary. Errors of asyncpg.

        One that takes no writes just now is good enough for reading.
        """
        if self.asks:
            return await self._connect_in_turn()
        if self.is_watched:
            await self._choose()
            try:
                return await self._connect_suitable(writing)
            except asyncpg.TooManyConnectionsError:
                raise
            except ERRORS:  # the one chosen may have failed since
                self._chosen = -1
            await self._choose()
        return await self._connect_suitable(writing)

    async def _connect_in_turn(self) -> Any:
        """Return a connection to the first host that is what the URL asks for."""
        # asyncpg takes several hosts too, but has one time limit for all of them: a
        # machine that has vanished would keep it from the next.
        error: Exception = OSError()
        for url in tuple(self.urls):
            try:
                raw, _ = await self._open(url)
            except ERRORS as exc:
                error = exc
            else:
                self._put_first(url)
                return raw
        raise error

    async def _open(self, url: str) -> tuple[Any, HostState]:
        """Return a connection and what its host is. Errors of asyncpg."""
        return await self.pooler.connect(
            url,
            self.connect_seconds,
            max_cached_statement_lifetime=0,
            server_settings=self.settings,
            target_session_attrs=None if self.asks else "any",
        )

    async def _connect_suitable(self, writing: bool) -> Any:
        """Return a connection to the first host if it is a primary, and not stale."""
        raw, state = await self._open(self.urls[0])
        try:
            self._refuse_unsuitable(state, writing)
        except ERRORS:
            raw.terminate()
            raise
        self.timeline = max(self.timeline, state.timeline)
        return raw

    def _refuse_unsuitable(self, state: HostState, writing: bool) -> None:
        """Raise an error of asyncpg for a host that is not to be used."""
        if not state.is_primary or (writing and not state.is_writable):
            raise asyncpg.TargetServerAttributeNotMatched(NO_PRIMARY)
        if 0 < state.timeline < self.timeline:
            raise StalePrimaryError(STALE_PRIMARY)

    def _put_first(self, url: str) -> None:
        self.urls.remove(url)
        self.urls.insert(0, url)

    async def _choose(self) -> None:
        """Choose a host once in a generation, for all who wait. Errors of asyncpg."""
        if self._chosen == self.generation:
            return
        if self._choice is None or self._choice.done():
            self._choice = asyncio.create_task(self._choose_primary(self.generation))
            self._choice.add_done_callback(retrieve)
        await asyncio.shield(self._choice)

    async def _choose_primary(self, generation: int) -> None:
        """Put the primary first that has the highest timeline. Errors of asyncpg."""
        found = await self._ask_all()
        states = {url: one for url, one in found.items() if isinstance(one, HostState)}
        # in the order of self.urls, whoever answered first
        primaries = [url for url in self.urls if url in states]
        primaries = [url for url in primaries if states[url].is_primary]
        if not primaries:
            errors = [one for one in found.values() if isinstance(one, Exception)]
            _raise_most_telling(errors, bool(states))
        # max() takes the first of equals: the one in use, or as the URL has it
        best = max(primaries, key=lambda url: states[url].rank)
        self._refuse_unsuitable(states[best], writing=False)
        self._put_first(best)
        self._chosen = generation

    async def _ask_all(self) -> dict[str, HostState | Exception]:
        """Return what each host is, or why that is not known.

        Not of all where a newer primary than seen before has answered; and once any
        primary has, the others are waited for no longer than CONNECT_SECONDS.
        """
        found: dict[str, HostState | Exception] = {}
        looks = {asyncio.create_task(self._look(url)) for url in self.urls}
        pending, seconds = looks, None
        try:
            while pending and seconds != 0:
                done, pending = await asyncio.wait(
                    pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for look in done:
                    url, state = look.result()
                    found[url] = state
                    if isinstance(state, HostState) and state.is_primary:
                        is_newer = 0 < self.timeline < state.timeline
                        limit = 0.0 if is_newer else CONNECT_SECONDS
                        seconds = limit if seconds is None else min(seconds, limit)
        finally:
            for look in pending:
                look.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return found

    async def _look(self, url: str) -> tuple[str, HostState | Exception]:
        """Return a host and what it is, or why that is not known."""
        try:
            raw, state = await self._open(url)
        except ERRORS as exc:
            return url, exc
        raw.terminate()
        return url, state

    async def watch(self, leave: Callable[[], None]) -> None:
        """Look for a newer primary until cancelled; `leave` is called when there is.

        A stale one may answer as if nothing had happened.
        """
        kept: dict[str, Any] = {}
        try:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                if self.urls[0] in kept:  # it is in use now
                    kept.pop(self.urls[0]).terminate()
                looks = (self._look_again(url, kept) for url in self.urls[1:])
                found = await asyncio.gather(*looks, return_exceptions=True)
                known = [one for one in found if not isinstance(one, BaseException)]
                timeline, url = max(known, default=(0, ""))
                if timeline > self.timeline > 0:
                    self._put_first(url)
                    self.timeline = timeline
                    self.generation += 1
                    self._chosen = self.generation
                    leave()
        finally:
            for raw in kept.values():
                raw.terminate()

    async def close(self) -> None:
        """Give up what is still being asked."""
        if self._choice is not None:
            self._choice.cancel()
            await asyncio.wait((self._choice,))

    async def _look_again(self, url: str, kept: dict[str, Any]) -> tuple[int, str]:
        """Return a host after its timeline as a primary, else 0; keep a connection."""
        try:
            if url in kept:
                async with asyncio.timeout(self.connect_seconds):
                    state = await probe(kept[url])
            else:
                kept[url], state = await self._open(url)
        except ERRORS:
            if url in kept:
                kept.pop(url).terminate()
            return 0, url
        return state.timeline if state.is_primary else 0, url


def _raise_most_telling(errors: list[Exception], found_any: bool) -> None:
    """Raise why there is no primary: what a server said, before what none said."""
    for error in errors:
        if isinstance(error, asyncpg.PostgresError):
            raise error
    if found_any:
        raise asyncpg.TargetServerAttributeNotMatched(NO_PRIMARY)
    raise errors[0]


def retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody may wait for any more."""
    if not task.cancelled():
        task.exception()


def read_parameters(query: str) -> tuple[dict[str, str], float]:
    """Return the parameters of a URL for the driver, and seconds for connecting.

    StartupError names one that cannot be honoured.
    """
    options: dict[str, str] = {}
    seconds = CONNECT_SECONDS
    for name, value in parse_qsl(query, keep_blank_values=True):
        values = UNNEEDED.get(name, set())
        if name == "connect_timeout":
            if not value.isascii() or not value.isdigit():
                raise StartupError("connect_timeout is a number of seconds")
            seconds = float(value) or CONNECT_SECONDS
        elif values is None or value in values:
            continue
        elif name in REFUSED:
            raise StartupError(f"{name} cannot be honoured: {REFUSED[name]}")
        else:
            options[name] = value
    return options, seconds
