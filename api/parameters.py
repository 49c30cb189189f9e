"""The parameters of requests, and their files, as the description shows them."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from api.conditional import KEY
from api.pages import ASSETS, CONSOLE_FILES
from api.schemas import (
    MAX_ID,
    Action,
    Change,
    Cursor,
    Id,
    NamePart,
    SummaryKey,
    TimeOrDate,
)

Object = dict[str, Any]

PARAMETERS: Object = {
    "path": {
        "customer_id": (Id, "The id of a customer."),
        "purchase_id": (Id, "The id of a purchase."),
        "change_id": (Change, "The number of a change."),
        "format": (Literal["csv", "jsonl"], "For spreadsheets, or JSON Lines."),
        "asset": (Literal["start.js", *ASSETS], "A file of the page."),
        "file": (Literal[*CONSOLE_FILES], "A file of the page for people."),
    },
    "query": {
        "limit": (Annotated[int, Meta(ge=1, le=1000)], "At most so many rows."),
        "after": (Annotated[int, Meta(ge=0, le=MAX_ID)], "Only rows past this id."),
        "customer_id": (Id, "Only the purchases of this customer."),
        "name": (NamePart, "A part of the name."),
        "delete_all": (bool, "In place of a body: delete all."),
        "purchase_id": (list[Id], "In place of a body: delete these."),
        "purge": (bool, "Erase for good what could else be undone."),
        "caller": (NamePart, "Only what this caller wrote: the name of a token."),
        "action": (Action, "Only what did this."),
        "order": (Literal["asc", "desc"], "The newest first, with `desc`."),
        "purchased_from": (TimeOrDate, "Only purchases from this time on."),
        "purchased_before": (TimeOrDate, "Only purchases from before this time."),
        "purchase_name": (NamePart, "A part of the name of what was bought."),
        "by": (SummaryKey, "What the purchases of a sum have in common."),
        "dry_run": (bool, "Only say what the import would do."),
    },
    "header": {
        "Idempotency-Key": (
            Annotated[str, Meta(pattern=f"^(?:{KEY.pattern})$")],
            "Kept for 24 hours: the same request again has the same answer.",
        ),
        "If-Match": (str, "Change the row only while its entity tag is one of these."),
        "If-None-Match": (str, "Answer 304 while the entity tag is one of these."),
        "Prefer": (str, "With `count=exact`, `Total-Count` is the number of all rows."),
    },
}

FEED_PARAMETERS: Object = {
    "after": (Cursor, "Only rows past this cursor."),
    "customer_id": (Id, "Only rows of this customer."),
    "purchase_id": (Id, "Only rows of this purchase."),
}
"""What has another meaning for the history than for other lists."""

FILE = (
    "customer_name,customer_address,purchase_name,quantity,purchased_on\r\n"
    'John Doe,"Amsterdam, NL",Iphone 8,2,2019-11-29\r\n'
)
"""A file to import."""
