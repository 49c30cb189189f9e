"""The columns that a file to import may have, and the values of their cells."""

import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec

from api.listing import unguard
from api.request_body import EXPECTED_ID, error_of, pointer_to
from api.responses import FieldError
from api.schemas import ID_PATTERN, MAX_ID, Address, Body, Id, Name, Quantity
from api.times import is_later, parse_short_time, parse_time

WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[Ee][+-]?[0-9]{1,3})?")
"""A number of JSON (RFC 8259, section 6) whose fraction may be zero."""
SHORTENED = re.compile(r"[^Ee]*[Ee]\+?0*[1-9]")
"""As spreadsheets write long numbers, without their last digits."""
DIGITS = re.compile(ID_PATTERN)
MAX_NUMBER, MAX_TIME = 40, 100
"""How long the text of a number, and of a time, may be."""
CACHED = 1024
"""How many texts of a column are kept with their values."""


class PurchaseById(Body):
    """A purchase of a customer that is there."""

    customer_id: int | str
    purchase_name: Name
    quantity: Quantity
    purchased_on: str | None = None
    last_updated_on: str | None = None
    purchase_id: Id | None = None


class PurchaseByPair(Body):
    """A purchase of a customer that may not be there yet."""

    customer_name: Name
    customer_address: Address
    purchase_name: Name
    quantity: Quantity
    purchased_on: str | None = None
    last_updated_on: str | None = None
    purchase_id: Id | None = None


class NamedCustomer(Body):
    """A customer, in a file without purchases."""

    customer_name: Name
    customer_address: Address


class ExportedCustomer(Body):
    """A customer, as the list of customers shows it."""

    name: Name
    address: Address | None
    created_on: str | None = None
    id: Id | None = None


class Layout(NamedTuple):
    """What the rows of a file are, and the struct with their columns."""

    kind: Literal["purchases", "customers"]
    struct: type[Body]
    by_pair: bool = False
    """Whether a purchase names its customer by name and address."""
    padding: tuple[None, ...] = ()
    """What stands for the columns that only `ExportedCustomer` has."""


PURCHASES_BY_ID = Layout("purchases", PurchaseById)
PURCHASES_BY_PAIR = Layout("purchases", PurchaseByPair, by_pair=True)
NAMED_CUSTOMERS = Layout("customers", NamedCustomer, padding=(None, None))
EXPORTED_CUSTOMERS = Layout("customers", ExportedCustomer)
EXPECTED_COLUMNS = (
    "Expected the columns customer_id, or customer_name and customer_address, with "
    "purchase_name and quantity; or those of customers alone."
)


def choose_layout(columns: list[str]) -> Layout:
    """Return the layout of a file with these columns.

    ValueError with the pointer to a column, and a sentence.
    """
    names = set(columns)
    pair = names & {"customer_name", "customer_address"}
    if "customer_id" in names:
        if pair:
            raise ValueError(f"/{max(pair)}", "It does not go with customer_id.")
        return PURCHASES_BY_ID
    of_purchases = names & {*PurchaseByPair.__struct_fields__} - pair
    if pair:
        return PURCHASES_BY_PAIR if of_purchases else NAMED_CUSTOMERS
    if of_purchases:
        return PURCHASES_BY_ID
    if names & {*ExportedCustomer.__struct_fields__}:
        return EXPORTED_CUSTOMERS
    raise ValueError("", EXPECTED_COLUMNS + _list(columns))


def check_header(layout: Layout, columns: list[str]) -> list[FieldError]:
    """Return the faults of the header of a CSV file."""
    fields = msgspec.structs.fields(layout.struct)
    missing = [f.name for f in fields if f.required and f.name not in columns]
    detail = f"The column is missing.{_list(columns)}"
    errors = [FieldError(f"/{name}", detail) for name in missing]
    known, seen = ", ".join(layout.struct.__struct_fields__), set[str]()
    for number, name in enumerate(columns, 1):
        if not name:
            errors.append(FieldError("", f"Column {number} has no name."))
        elif name in seen:
            errors.append(FieldError(pointer_to(name), "The column is there twice."))
        elif name not in layout.struct.__struct_fields__:
            detail = f"There is no such column. Those that go together are {known}."
            errors.append(FieldError(pointer_to(name), detail))
        seen.add(name)
    return errors


def _list(columns: list[str]) -> str:
    listed = ", ".join([name[:50] for name in columns[:20] if name]) or "none"
    return f" The file has {listed[:500]}{', …' if len(columns) > 20 else ''}."


class Values(dict[Any, Any]):
    """The values of a column by what its cells hold, read when it is looked for.

    Looking for what is no value raises ValueError with a sentence.
    """

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, cell: Any) -> Any:
        """Return the value of a cell that is seen for the first time. ValueError."""
        value = self._read(cell)
        if len(self) >= CACHED:
            self.clear()
        self[cell] = value
        return value


def csv_values(column: str, now: str) -> Values:
    """Return the values of a column of CSV, not later than now."""
    match column:
        case "customer_id":
            return Values(_read_id)
        case "id" | "purchase_id":
            return Values(lambda cell: _read_id(cell) if cell.strip() else None)
        case "quantity":
            return Values(_read_quantity)
        case "address" | "customer_address":
            return Values(partial(_read_text, Address))
        case "name" | "customer_name" | "purchase_name":
            return Values(partial(_read_text, Name))
    return json_values(column, now)


def json_values(column: str, now: str) -> Values:
    """Return the values of a column of JSON whose struct leaves something to check."""
    if column == "customer_id":
        return Values(_check_customer_id)
    return Values(partial(_read_time, now, column == "created_on"))


CHECKED_COLUMNS = ("customer_id", "purchased_on", "last_updated_on", "created_on")
"""Those of JSON whose values are more than their types say."""


def _read_text(expected: Any, cell: str) -> str:
    text = unguard(cell)
    _check(text, expected)
    return text


def _check(value: Any, expected: Any) -> None:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError:
        error = error_of("", value, expected)
        raise ValueError(error.detail if error else "") from None


def _read_number(cell: str) -> int | None:
    if DIGITS.fullmatch(cell):
        return int(cell)
    text = cell.strip(" ")
    if len(cell) > MAX_NUMBER or not WHOLE_NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if not 0 <= number <= MAX_ID:
        return None
    return int(number) if number == int(number) else None


def _read_quantity(cell: str) -> int:
    number = _read_number(cell)
    if number is None:
        raise ValueError("Expected a whole number such as 4.")
    _check(number, Quantity)
    return number


def _read_id(cell: str) -> int:
    number = _read_number(cell)
    if not number or number > MAX_ID:
        raise ValueError(EXPECTED_ID)
    if SHORTENED.match(cell):
        detail = "The number is shortened, as spreadsheets do: write all of its digits."
        raise ValueError(detail)
    return number


def _check_customer_id(value: int | str) -> int:
    if isinstance(value, str) and not DIGITS.fullmatch(value):
        raise ValueError(EXPECTED_ID)
    if not 1 <= int(value) <= MAX_ID:
        raise ValueError(EXPECTED_ID)
    return int(value)


def _read_time(now: str, short: bool, cell: str | None) -> str | None:
    if not cell:
        return None
    if len(cell) > MAX_TIME:
        raise ValueError(f"Expected a time of at most {MAX_TIME} characters.")
    if short and cell[:1].isalpha():
        stored = parse_short_time(cell)
    else:
        stored = parse_time(cell, with_date=True)
    if is_later(stored, now):
        raise ValueError(f"It is later than now, which is {now}.")
    return stored
