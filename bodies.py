"""What a request may hold: its structs, and how its body is read and refused."""

import asyncio
import json
import re
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from replies import Fault, Problem, invalid

MAX_BODY = 256 * 1024
BODY_SECONDS = 10.0
MAX_ID = 2**63 - 1
UTF_8 = {"charset=utf-8", 'charset="utf-8"'}
NUMBER = re.compile("[0-9]{1,19}")
"""A number of a query, as long as MAX_ID at the most."""

# Spelt out, since engines of regular expressions differ over \s.
WHITE_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_NUL = "^[^\x00]*$"
NOT_BLANK = f"^[^\x00]*[^\x00{WHITE_SPACE}][^\x00]*$"

NamePart = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NOT_BLANK)]
Address = Annotated[str, Meta(max_length=500, pattern=NO_NUL)]
Quantity = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object; a field it does not know is a fault and not a typing error."""


class Changes(Body):
    """What is to be changed of a row: at least one field."""

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
    """What is to be changed of a customer."""

    name: Name | UnsetType = UNSET
    address: Address | UnsetType = UNSET


class NewPurchase(Body):
    """A purchase to record, or all of one that is to be changed."""

    purchase_name: Name
    quantity: Quantity


class PurchaseChanges(Changes):
    """What is to be changed of a purchase."""

    purchase_name: Name | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET


class Deletion(Body):
    """Which of a customer's purchases to delete: all, or those that are named."""

    delete_all: bool | UnsetType = UNSET
    purchase_ids: Annotated[list[Id], Meta(max_length=10_000)] | UnsetType = UNSET


B = TypeVar("B", bound=Body)

DECODERS: dict[type[Body], msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body)
    for body in (NewCustomer, CustomerChanges, NewPurchase, PurchaseChanges)
}

V = TypeVar("V")


def given(value: V | UnsetType) -> V | None:
    """Return the value of a field, None where the body left it out."""
    return None if isinstance(value, UnsetType) else value


async def read(request: web.Request, body: type[B]) -> B:
    """Return the struct that the body of a request holds.

    Problem 400, 408, 413, 415, or 422 with all faults.
    """
    _check_kind(request)
    content = request.content
    if content.is_eof():
        return decode(_bounded(content.read_nowait(-1)), body)
    return decode(await _rest(request), body)


async def read_any(request: web.Request) -> bytes:
    """Return the body of a request that may come without one, and then without a type.

    Problem 400, 408, 413 or 415.
    """
    text = await _rest(request)
    if text:
        _check_kind(request)
    return text


async def _rest(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_BODY:
        raise Problem(413, f"A body holds at most {MAX_BODY} bytes.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            chunks = bytearray()
            while chunk := await request.content.readany():
                chunks += _bounded(chunk, len(chunks))
            return bytes(chunks)
    except TimeoutError:
        detail = f"The body did not arrive within {BODY_SECONDS:.0f} seconds."
        raise Problem(408, detail) from None
    except web.RequestPayloadError:
        detail = "The body is not framed as HTTP/1.1 has it."
        raise Problem(400, detail, headers={"Connection": "close"}) from None


def _bounded(chunk: bytes, before: int = 0) -> bytes:
    if before + len(chunk) > MAX_BODY:
        raise Problem(413, f"A body holds at most {MAX_BODY} bytes.")
    return chunk


def _check_kind(request: web.Request) -> None:
    given = request.headers.get("Content-Type", "")
    if given == "application/json":
        return
    accepted = ["application/json"]
    if request.method == "PATCH":
        accepted.append("application/merge-patch+json")
    kind, *parameters = (part.strip().lower() for part in given.split(";"))
    charsets = [part for part in parameters if part.startswith("charset")]
    if kind not in accepted or not UTF_8.issuperset(charsets):
        raise Problem(415, f"Content-Type must be {' or '.join(accepted)}, in UTF-8.")


def numbers(request: web.Request, name: str, least: int) -> list[int]:
    """Return the numbers of the query with a name, `least` to MAX_ID. Problem 422."""
    texts = request.query.getall(name, [])
    if all(NUMBER.fullmatch(text) and least <= int(text) <= MAX_ID for text in texts):
        return [int(text) for text in texts]
    raise invalid((f"/{name}", f"Expected whole numbers, {least} to {MAX_ID}."))


def number(request: web.Request, name: str, least: int, most: int) -> int | None:
    """Return a number of the query, None without it. Problem 422."""
    match request.query.getall(name, []):
        case []:
            return None
        case [text] if NUMBER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
    raise invalid((f"/{name}", f"Expected one whole number, {least} to {most}."))


def decode(text: bytes, body: type[B]) -> B:
    """Return the struct that a JSON text holds. Problem 400, or 422 with all faults."""
    try:
        decoded: B = DECODERS[body].decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return convert(parse(text), body)
    return decoded


def parse(text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Problem 400, or 422 for another value.

    Used for what the decoder refused: msgspec stops at the first fault, and takes a
    lone surrogate for broken JSON.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), parse_int=_integer, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise Problem(400, "The body is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise invalid(("", "Expected an object."))
    return value


def _integer(digits: str) -> int:
    # Python refuses to read more than some thousand digits; no bound here needs them.
    return int(digits[:40])


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON: RFC 8259, section 6


def convert(fields: dict[str, Any], body: type[B]) -> B:
    """Return the struct that the fields make. Problem 422 with all faults."""
    faults = faults_of(fields, body)
    if faults:
        raise invalid(*faults)
    try:
        return body(**fields)
    except ValueError as exc:
        raise invalid(("", str(exc))) from None


def faults_of(fields: dict[str, Any], body: type[Body]) -> list[Fault]:
    """Return what is wrong with each field for a struct, and the fields it lacks."""
    faults: list[Fault] = []
    for field in msgspec.structs.fields(body):
        pointer = f"/{field.name}"
        if field.name in fields:
            faults += _faults_of_value(pointer, fields[field.name], field.type)
        elif field.required:
            faults.append((pointer, "It is missing."))
    for name in fields:
        if name not in body.__struct_fields__:
            pointer = "/" + name[:200].replace("~", "~0").replace("/", "~1")
            faults.append((_printable(pointer), "There is no such field."))
    return faults


def _faults_of_value(pointer: str, value: Any, kind: Any) -> list[Fault]:
    try:
        if isinstance(value, str):
            value.encode()
        msgspec.convert(value, kind)
    except UnicodeEncodeError:  # it cannot be stored: RFC 8259, section 8.2
        return [(pointer, "A lone surrogate is not text.")]
    except msgspec.ValidationError as exc:
        message, _, item = str(exc).partition(" - at `$[")
        if item:  # msgspec stops at the first that is wrong
            return [
                fault
                for index, part in enumerate(value)
                for fault in _faults_of_value(f"{pointer}/{index}", part, Id)
            ]
        if " matching regex " in message:
            message = "Expected text that is not only white space"
            if "\0" in value:
                message = "Expected text without U+0000"
        return [(pointer, message.replace("`", "") + ".")]
    return []


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
