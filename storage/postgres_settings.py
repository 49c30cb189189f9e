"""The settings under which units of work run: of a session, or of a transaction.

A pooler in transaction mode (pgbouncer, PgCat, Supavisor, Odyssey) gives each
transaction another session, as whoever had it before left it. There nothing is set in
a session or expected of it: each transaction says all of it for itself.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

LOCK_SECONDS = 2.0
"""How long a statement waits for a row that another transaction holds."""
STATEMENT_SECONDS = 8.0
"""How long a statement may run until the server ends it."""
UNIT_SECONDS = 10.0
"""How long a unit may take with all its attempts; then its connection is given up."""

Settings = Mapping[str, str]

TEXT = {"client_min_messages": "warning", "timezone": "UTC", "datestyle": "ISO"}
LIMITS = {
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{UNIT_SECONDS}s",
}
NO_LIMITS = dict.fromkeys(LIMITS, "0")

DURABLE = """
SELECT set_config(
    'synchronous_commit', CASE WHEN found = 'off' THEN 'on' ELSE found END, {})
FROM current_setting('synchronous_commit') AS found;
"""
DURABLE_SESSION, DURABLE_LOCALLY = DURABLE.format(False), DURABLE.format(True)
"""A commit is on the disk, or on as many disks as the server was told to wait for. Set
in every session, for a reload of the server changes only what no session has set."""
READ_COMMITTED = {"default_transaction_isolation": "read committed"}

DEFAULTS = (
    "role",
    "search_path",
    "synchronous_commit",
    "default_transaction_read_only",
)
"""What a transaction takes from the server, the database and the role alone."""
AS_TOLD = """
SELECT set_config(
    'transaction_read_only', current_setting('default_transaction_read_only'), true);
"""
"""A provider makes a primary read-only when its disk is nearly full."""

DRIVER_PARAMETERS = {
    *("host", "port", "user", "password", "passfile", "dbname", "database", "service"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
    *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib", "servicefile"),
}
"""The parameters of a URL that are no settings of the server."""
OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=([^\s\\]*)\s*")


def session(settings: Settings) -> str:
    """Return what sets up a session."""
    return "".join(f"SET {name} = '{value}';\n" for name, value in settings.items())


def begin(
    given: Settings,
    limits: Settings = LIMITS,
    writing: bool = True,
    isolation: str = "READ COMMITTED",
) -> str:
    """Return what begins a transaction that leaves nothing in its session.

    `given` are the settings of the URL.
    """
    ours = {"standard_conforming_strings": "on", **TEXT, **READ_COMMITTED, **limits}
    parts = [f"BEGIN ISOLATION LEVEL {isolation} READ {'WRITE' if writing else 'ONLY'}"]
    parts += [f"SET LOCAL {name} TO DEFAULT" for name in DEFAULTS]
    parts += [f"SET LOCAL {name} = '{value}'" for name, value in ours.items()]
    parts += [
        f"SELECT set_config({_quoted(name)}, {_quoted(value)}, true)"
        for name, value in given.items()
        if name.lower() not in ours
    ]
    if writing:
        parts += [AS_TOLD, DURABLE_LOCALLY]
    return "; ".join(part.strip().removesuffix(";") for part in parts)


def _quoted(text: str) -> str:
    """Return text as SQL, whatever it holds."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def split(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL for a pooler, and the settings that each transaction is to have.

    A pooler refuses a setting at the start of a connection, or forgets it. Its own
    parameters in `options` (Supavisor's tenant) are left to it.
    """
    parts = urlsplit(url)
    kept: dict[str, str] = {}
    settings: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "options" and not OPTION.sub("", value):
            settings.update(OPTION.findall(value))
        elif name in DRIVER_PARAMETERS or name in ("application_name", "options"):
            kept[name] = value
        else:
            settings[name] = value
    kept.pop("target_session_attrs", None)  # the driver asks outside a transaction
    return parts._replace(query=urlencode(kept)).geturl(), settings
