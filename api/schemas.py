"""The structs of request and reply bodies, with the limits of their values."""

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_ID = 2**63 - 1
MAX_BODY = 256 * 1024
"""The most bytes of a body, but for a file."""
MAX_IDS = 10_000
"""How many purchases one request may name."""

# Spelt out, since engines of regular expressions differ over \s.
WHITE_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_NUL = "^[^\x00]*$"
NOT_BLANK = f"^[^\x00]*[^\x00{WHITE_SPACE}][^\x00]*$"

NamePart = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NOT_BLANK)]
Address = Annotated[str, Meta(max_length=500, pattern=NO_NUL)]
Quantity = Annotated[int, Meta(ge=1, le=2**31 - 1)]
ID_PATTERN = "[1-9][0-9]{0,18}"
"""An id, a version or a change as text; the largest of them are over MAX_ID."""
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
Cursor = Annotated[str, Meta(pattern="^[0-9]{1,19}$")]
Change = Annotated[str, Meta(pattern=f"^{ID_PATTERN}$")]
PastTime = Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | UnsetType
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME_OF_DAY = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
TimeOrDate = Annotated[str, Meta(pattern=f"^{DATE}([Tt ]{TIME_OF_DAY})?$")]
PurchaseIds = Annotated[list[Id], Meta(max_length=MAX_IDS)] | UnsetType


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object; an unknown field is an error, for it is a misspelt one."""


class Changes(Body):
    """Changes of a row: at least one field."""

    def __post_init__(self) -> None:
        """Refuse an object without any field. ValueError."""
        fields = self.__struct_fields__
        if all(getattr(self, name) is UNSET for name in fields):
            raise ValueError(f"Expected {' or '.join(fields)}.")


class NewCustomer(Body):
    """A customer to record."""

    name: Name
    address: Address


class CustomerChanges(Changes):
    """Changes of a customer."""

    name: Name | UnsetType = UNSET
    address: Address | UnsetType = UNSET


class PurchaseValues(Body):
    """All values of a purchase that can be changed."""

    purchase_name: Name
    quantity: Quantity


class NewPurchase(PurchaseValues):
    """A purchase to record; without `purchased_on`, as of now."""

    purchased_on: PastTime = UNSET


class PurchaseChanges(Changes):
    """Changes of a purchase."""

    purchase_name: Name | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET


class Deletion(Body):
    """Which of a customer's purchases to delete: all, or some by their ids."""

    delete_all: bool | UnsetType = UNSET
    purchase_ids: PurchaseIds = UNSET


class VersionedReply(msgspec.Struct):
    """One row, whose version is the entity tag of the reply."""


class CustomerReply(VersionedReply):
    """A customer."""

    id: int
    name: str
    address: str | None
    created_on: str


class PurchaseAdded(VersionedReply):
    """A purchase, as the reply to adding it shows it."""

    id: int
    purchase_name: str
    quantity: int
    customer_id: str
    purchased_on: str


class PurchaseListItem(msgspec.Struct):
    """A purchase, as a list shows it."""

    purchase_id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str


class PurchaseReply(VersionedReply):
    """A purchase, as updating it and reading it alone show it."""

    id: str
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None


class CustomerState(msgspec.Struct):
    """A customer, as the history shows it."""

    id: str
    name: str
    address: str | None
    created_on: str


class PurchaseState(msgspec.Struct):
    """A purchase, as the history shows it."""

    id: str
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str


Action = Literal[
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "customer.restored",
    "customer.erased",
    "purchase.added",
    "purchase.updated",
    "purchase.deleted",
    "purchase.restored",
    "purchases.cleared",
    "purchases.restored",
]


class ChangeReply(msgspec.Struct):
    """A row of the history: what a change did to one customer or purchase."""

    cursor: str
    change: str
    at: str
    caller: str | None
    action: Action
    customer_id: str
    purchase_id: str | None
    before: Any
    """CustomerState, PurchaseState, or None for what did not exist."""
    now: Any
    """The same as it is now, None for what is gone."""
    purchases: int | UnsetType = UNSET
    """How many went or came at once."""


class UndoReply(msgspec.Struct):
    """A change that undid another."""

    change: str
    undoes: str
    rows: int


class ImportReply(msgspec.Struct):
    """What an import added; without a change, what it would add."""

    change: str | None
    customers: int
    purchases: int


SummaryKey = Literal["day", "customer", "purchase_name"]


class SummaryItem(msgspec.Struct):
    """The purchases that have a key in common."""

    key: str
    label: str
    purchases: int
    quantity: int


Access = Literal["read", "write"]
"""What a token lets its caller do."""


class CallerReply(msgspec.Struct):
    """Who calls, and what it may do."""

    name: str | None
    """That of its token; None on a server without tokens, where anybody may call."""
    access: Access
    undo_days: int
    """How long its changes can be undone; 0 where they cannot."""


class ServerInfo(msgspec.Struct):
    """The name and the version of this server."""

    name: str
    version: str
    healthy: bool
    docs: str


class HealthReply(msgspec.Struct, omit_defaults=True):
    """The state of the server."""

    status: str
    database: str | None = None


def rfc3339(stored: str) -> str:
    """Return `2022-04-09 12:43:22.237526+00:00` as `2022-04-09T12:43:22.237526Z`."""
    if len(stored) == len("2022-04-09 12:43:22.237526+00:00"):
        return f"{stored[:10]}T{stored[11:26]}Z"
    return stored  # no time, in a row taken over from the described server


NAMES = "JanFebMarAprMayJunJulAugSepOctNovDec"
MONTHS = {f"{month + 1:02}": NAMES[3 * month : 3 * month + 3] for month in range(12)}
"""English, whatever the locale says, which strftime would ask."""


def short_time(stored: str) -> str:
    """Return `2022-04-09 12:43:22.237526+00:00` as `Apr 09 2022 12:43:22`."""
    # A text from a migrated database that is no time comes back as it is.
    return _short_time(stored[:19]) or stored


@lru_cache(100)
def _short_time(stored: str) -> str:
    month = MONTHS.get(stored[5:7])
    return f"{month} {stored[8:10]} {stored[:4]} {stored[11:]}" if month else ""
