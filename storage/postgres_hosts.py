"""The servers and parameters that a PostgreSQL URL names."""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from storage.engine import StartupError

try:
    import asyncpg as asyncpg
except ImportError as exc:
    raise StartupError(
        "PostgreSQL is reached over asyncpg: pip install asyncpg==0.32.0"
    ) from exc

CONNECT_SECONDS = 2.0
"""How long one host may take to let a connection in."""

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
    "pgbouncer": "leave it out; a pooler must be in session mode",
    "client_encoding": "leave it out: it is UTF-8",
    "sslcompression": "leave it out: nothing is compressed",
    "sslsni": "leave it out",
}
"""Parameters of libpq and of other drivers that cannot be honoured, and what to do."""


class HostList:
    """The servers that a URL names, first the one that accepted a connection last.

    asyncpg takes several hosts too, but has one time limit for all of them: a machine
    that has vanished would keep it from the next. StartupError for a parameter that
    cannot be honoured.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options, self.connect_seconds = read_parameters(parts.query)
        parts = parts._replace(query=urlencode(options))
        user, at, hosts = parts.netloc.rpartition("@")
        self.urls = [
            parts._replace(netloc=f"{user}{at}{host}").geturl()
            for host in hosts.split(",")
        ]
        # A standby accepts connections too, and lags behind; the URL may ask for one.
        self.asks = "target_session_attrs" in options
        self.settings = {"application_name": "customer-purchase-server"}
        if "application_name" in options:
            self.settings = {}
        self.generation = 0
        """Counts the times when all connections were found to be of no more use."""

    async def connect(self, writing: bool = True) -> Any:
        """Return a connection to the first host that accepts one. Errors of asyncpg.

        A primary that takes no writes just now is good enough for reading.
        """
        attributes = "read-write" if writing else "primary"
        error: Exception = OSError()
        for url in tuple(self.urls):
            try:
                connection = await asyncpg.connect(
                    url,
                    timeout=self.connect_seconds,
                    max_cached_statement_lifetime=0,
                    server_settings=self.settings,
                    target_session_attrs=None if self.asks else attributes,
                )
            except ERRORS as exc:
                error = exc
            else:
                self.urls.remove(url)
                self.urls.insert(0, url)
                return connection
        raise error


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
