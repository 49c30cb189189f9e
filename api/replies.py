"""How the rows of the database look in replies."""

import msgspec
from msgspec import UNSET, UnsetType

import db
from api.conditional import entity_tag
from api.listing import RowType
from api.responses import ENCODER, RawResponse, ok, ok_body
from api.schemas import (
    Action,
    ChangeReply,
    CustomerReply,
    CustomerState,
    ImportReply,
    PurchaseAdded,
    PurchaseListItem,
    PurchaseReply,
    PurchaseState,
    SummaryItem,
    UndoReply,
    rfc3339,
    short_time,
)

DEPRECATED = {"Deprecation": "@1775001600", "Link": '</docs>; rel="deprecation"'}
"""The description gives the update the method and the path of the deletion."""


def customer(row: db.Customer) -> CustomerReply:
    return CustomerReply(row.id, row.name, row.address, short_time(row.created_on))


def tag_line(version: int) -> str:
    return f"ETag: {entity_tag(version)}\r\n"


def customer_response(row: db.Customer) -> RawResponse:
    return ok(customer(row), tag_line(row.version))


def purchase_response(row: db.Purchase) -> RawResponse:
    reply = PurchaseReply(
        str(row.id),
        row.purchase_name,
        row.quantity,
        row.purchased_on,
        row.last_updated_on,
    )
    return ok(reply, tag_line(row.version))


def created_response(written: db.Written[db.Customer]) -> db.StoredResponse:
    row, change = written
    body = ok_body(customer(row))
    location = f"/api/v1/customer/{row.id}"
    tag = entity_tag(row.version)
    return db.StoredResponse(201, location, tag, body, row.id, change)


def added_response(written: db.Written[db.Purchase]) -> db.StoredResponse:
    row, change = written
    reply = PurchaseAdded(
        row.id,
        row.purchase_name,
        row.quantity,
        row.customer_id,
        short_time(row.purchased_on),
    )
    body = ok_body(reply)
    tag, owner = entity_tag(row.version), int(row.customer_id)
    return db.StoredResponse(201, location(row), tag, body, owner, change)


def location(row: db.Purchase) -> str:
    return f"/api/v1/customer/{row.customer_id}/purchase/{row.id}"


def deleted(written: db.Written[int]) -> RawResponse:
    count, change = written
    body = ENCODER.encode({"status": "ok", "deleted_count": count})
    return changed(RawResponse(200, body), change)


def changed(response: RawResponse, change: int | None) -> RawResponse:
    """Add the number of a change, if there is one, to the response to a write."""
    if change is not None:
        response.lines += f"Change: {change}\r\n"
    return response


CUSTOMER_LIST = msgspec.json.Decoder(list[CustomerReply])
PURCHASE_LIST = msgspec.json.Decoder(list[PurchaseListItem])


def _decode_customers(json: str) -> list[CustomerReply]:
    customers = CUSTOMER_LIST.decode(json)
    for customer in customers:
        customer.created_on = short_time(customer.created_on)
    return customers


CUSTOMER_ROWS = RowType(CustomerReply, _decode_customers, as_stored=False)
PURCHASE_ROWS = RowType(PurchaseListItem, PURCHASE_LIST.decode, as_stored=True)


class Image(msgspec.Struct):
    """A row as the history stores it, of a customer or a purchase."""

    name: str | UnsetType = UNSET
    address: str | None = None
    created_on: str = ""
    purchase_name: str = ""
    quantity: int = 0
    purchased_on: str = ""
    last_updated_on: str | None = None
    purchases: int = 0


class ChangeRow(msgspec.Struct):
    """A row of the history, as its query returns it."""

    id: int
    change: int
    at: str
    caller: str | None
    action: Action
    customer_id: int
    purchase_id: int | None
    before: Image | None
    now: Image | None


CHANGE_LIST = msgspec.json.Decoder(list[ChangeRow])


def change_replies(json: str) -> list[ChangeReply]:
    """Return rows of the history as replies show them."""
    return [_change(row) for row in CHANGE_LIST.decode(json)]


def _change(row: ChangeRow) -> ChangeReply:
    purchase_id = None if row.purchase_id is None else str(row.purchase_id)
    return ChangeReply(
        str(row.id),
        str(row.change),
        rfc3339(row.at),
        row.caller,
        row.action,
        str(row.customer_id),
        purchase_id,
        _state(row, row.before),
        _state(row, row.now),
        _purchases(row),
    )


LARGE = {"customer.deleted", "customer.restored", "purchases.cleared"}
LARGE.add("purchases.restored")
"""Actions that take along however many purchases there are."""


def _purchases(row: ChangeRow) -> int | UnsetType:
    if row.action not in LARGE:
        return UNSET
    return 0 if row.before is None else row.before.purchases


def _state(row: ChangeRow, image: Image | None) -> CustomerState | PurchaseState | None:
    """Return an image as replies show it, None for one that only holds numbers."""
    if image is None:
        return None
    if row.purchase_id is not None:
        updated = image.last_updated_on
        return PurchaseState(
            str(row.purchase_id),
            image.purchase_name,
            image.quantity,
            rfc3339(image.purchased_on),
            None if updated is None else rfc3339(updated),
            str(row.customer_id),
        )
    if image.name is UNSET:
        return None
    created_on = rfc3339(image.created_on)
    return CustomerState(str(row.customer_id), image.name, image.address, created_on)


CHANGE_ROWS = RowType(ChangeReply, change_replies, as_stored=False)


def undone_response(written: db.Written[db.Undone]) -> db.StoredResponse:
    row, change = written
    reply = UndoReply(str(row.change), str(row.undoes), row.rows)
    body = ok_body(reply)
    location = f"/api/v1/changes/{row.change}"
    return db.StoredResponse(201, location, "", body, None, change)


def imported(row: db.Imported) -> ImportReply:
    change = None if row.change is None else str(row.change)
    return ImportReply(change, row.customers, row.purchases)


def imported_response(written: db.Written[db.Imported]) -> db.StoredResponse:
    row, change = written
    body = ok_body(imported(row))
    if change is None:
        return db.StoredResponse(200, "", "", body, None, None)
    location = f"/api/v1/changes/{change}"
    return db.StoredResponse(201, location, "", body, None, change)


SUMMARY_LIST = msgspec.json.Decoder(list[SummaryItem])
SUMMARY_ROWS = RowType(SummaryItem, SUMMARY_LIST.decode, as_stored=True)
