"""Reads and decodes the body and the query of a request, and names their faults."""

import asyncio
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

import db
from api import times
from api.responses import MAX_ERRORS, FieldError, ProblemError, invalid, invalid_field
from api.routing import PATCH_TYPES
from api.schemas import (
    MAX_BODY,
    MAX_ID,
    MAX_IDS,
    Body,
    CustomerChanges,
    Deletion,
    Id,
    NewCustomer,
    NewPurchase,
    PastTime,
    PurchaseChanges,
    PurchaseIds,
    PurchaseValues,
)

BODY_SECONDS = 10.0
SLOWEST = 16 * 1024
"""The bytes a second that a file must come with, on the whole."""
QUICK_BYTES = 2048
"""The longest body that is decoded in one step: more may be the same field again and
again, each validated."""
EXPECTED_ID = f"Expected a whole number, 1 to {MAX_ID}."
UTF_8_CHARSETS = {"charset=utf-8", 'charset="utf-8"'}
NUMBER = re.compile("[0-9]{1,19}")
"""A number of a query, with at most as many digits as MAX_ID."""


B = TypeVar("B", bound=Body)

DECODERS: dict[type[Body], msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body)
    for body in (
        NewCustomer,
        CustomerChanges,
        NewPurchase,
        PurchaseValues,
        PurchaseChanges,
    )
}

ANYTHING = msgspec.json.Decoder()

V = TypeVar("V")


def value_or_none(value: V | UnsetType) -> V | None:
    """Return the value of a field, None where the body leaves it out."""
    return None if isinstance(value, UnsetType) else value


async def read(request: web.Request, body: type[B]) -> B:
    """Return the struct in the body of a request.

    ProblemError 400, 408, 413, 415, or 422 with all faults.
    """
    _check_content_type(request)
    content = request.content
    if content.is_eof() and content.exception() is None:
        return decode(_check_size(content.read_nowait(-1)), body)
    return decode(await _read_all(request), body)


async def read_empty(request: web.Request) -> Body:
    """Return the struct without fields, of no body or of an empty object.

    ProblemError 400, 408, 413, 415, or 422 with all faults.
    """
    text = await _read_all(request)
    if text:
        _check_content_type(request)
    return convert(parse(text) if text else {}, Body)


async def read_deletion(request: web.Request) -> Deletion | PurchaseValues:
    """Return the deletion in a body or a query, or the update that is sent like one.

    ProblemError 400, 408, 413, 415, or 422 with all faults.
    """
    text = await _read_all(request)
    if text:
        _check_content_type(request)
    fields = parse(text) if text else {}
    if fields and request.query:
        raise invalid_field("", "Expected a body or a query, not both.")
    updating = fields.keys() & PurchaseValues.__struct_fields__
    if updating and fields.keys() & Deletion.__struct_fields__:
        detail = "This does not go with a deletion."
        mixed = [FieldError(f"/{name}", detail) for name in sorted(updating)]
        rest = {name: fields[name] for name in fields.keys() - updating}
        raise invalid(*mixed, *find_errors(rest, Deletion))
    if updating:
        return convert(fields, PurchaseValues)
    if request.query:
        fields = _deletion_query(request)
    if fields.get("delete_all") is True:
        fields.pop("purchase_ids", None)  # ignored, whatever it holds
    deletion = convert(fields, Deletion)
    if deletion.delete_all is not True and deletion.purchase_ids is UNSET:
        raise invalid_field("", "Expected delete_all: true, or purchase_ids.")
    return deletion


def _deletion_query(request: web.Request) -> dict[str, Any]:
    """Return the query as the fields of the body that it stands for."""
    fields: dict[str, Any] = {}
    if "delete_all" in request.query:
        fields["delete_all"] = switch(request, "delete_all")
    if "purchase_id" in request.query and not fields.get("delete_all"):
        fields["purchase_ids"] = numbers(request, "purchase_id", 1)
    return fields


async def _read_all(request: web.Request) -> bytes:
    return await read_content(request, MAX_BODY)


async def read_content(request: web.Request, most: int) -> bytes:
    """Return a body of at most so many bytes. ProblemError 400, 408, 413."""
    if (request.content_length or 0) > most:
        raise ProblemError(413, f"A body holds at most {most} bytes.")
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(BODY_SECONDS) as limit:
            chunks = bytearray()
            while chunk := await request.content.readany():
                chunks += _check_size(chunk, len(chunks), most)
                if len(chunks) > MAX_BODY:
                    limit.reschedule(began + BODY_SECONDS + len(chunks) / SLOWEST)
            return bytes(chunks)
    except TimeoutError:
        detail = f"The body did not arrive within {loop.time() - began:.0f} seconds."
        raise ProblemError(408, detail) from None
    except web.RequestPayloadError:
        detail = "The body is not framed as HTTP/1.1 has it."
        raise ProblemError(400, detail, headers={"Connection": "close"}) from None


def _check_size(chunk: bytes, before: int = 0, most: int = MAX_BODY) -> bytes:
    if before + len(chunk) > most:
        raise ProblemError(413, f"A body holds at most {most} bytes.")
    return chunk


def _check_content_type(request: web.Request) -> None:
    if request.headers.get("Content-Type") == "application/json":
        return
    accepted, headers = ["application/json"], dict[str, str]()
    if request.method == "PATCH":
        accepted.append("application/merge-patch+json")
        headers["Accept-Patch"] = PATCH_TYPES  # RFC 5789, section 2.2
    check_media_type(request, accepted, accepted, headers)


def check_media_type(
    request: web.Request,
    accepted: Collection[str],
    named: Collection[str],
    headers: Mapping[str, str] | None = None,
) -> str:
    """Return the media type of a body in UTF-8, which is one that is accepted.

    ProblemError 415, which names some, with headers.
    """
    header = request.headers.get("Content-Type", "")
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    charsets = [part for part in parameters if part.startswith("charset")]
    if media_type in accepted and UTF_8_CHARSETS.issuperset(charsets):
        return media_type
    detail = f"Content-Type must be {' or '.join(named)}, in UTF-8."
    raise ProblemError(415, detail, headers=headers)


def numbers(request: web.Request, name: str, least: int) -> list[int]:
    """Return the numbers of a query parameter. ProblemError 422."""
    texts = request.query.getall(name, [])
    if all(NUMBER.fullmatch(text) and least <= int(text) <= MAX_ID for text in texts):
        return [int(text) for text in texts]
    raise invalid_field(f"/{name}", f"Expected whole numbers, {least} to {MAX_ID}.")


def number(request: web.Request, name: str, least: int, most: int) -> int | None:
    """Return the number of a query parameter, None without it. ProblemError 422."""
    match request.query.getall(name, []):
        case []:
            return None
        case [text] if NUMBER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
    raise invalid_field(f"/{name}", f"Expected one whole number, {least} to {most}.")


def text(request: web.Request, name: str, known: Collection[str] = ()) -> str | None:
    """Return the text of a query parameter, None without it. ProblemError 422."""
    texts = request.query.getall(name, [])
    if not texts:
        return None
    one = texts[0]
    fits = one in known if known else len(one) <= 200 and "\0" not in one
    if len(texts) > 1 or not fits:
        expected = "one text of at most 200 characters, without U+0000"
        if known:
            expected = f"one of {', '.join(known)}"
        raise invalid_field(f"/{name}", f"Expected {expected}.")
    return texts[0]


def switch(request: web.Request, name: str) -> bool:
    """Return the truth of a query parameter, False without it. ProblemError 422."""
    texts = request.query.getall(name, ["false"])
    if texts not in (["true"], ["false"]):
        raise invalid_field(f"/{name}", "Expected true or false, once.")
    return texts == ["true"]


def past_time(text: str) -> str:
    """Return a time of RFC 3339 as the tables hold it. ValueError for one to come."""
    stored: str = times.parse_time(text)
    if times.is_later(stored, db.now()):
        raise ValueError("It is later than now.")
    return stored


def optional_past_time(value: str | UnsetType) -> str | None:
    """Return the time of `purchased_on`, None without it. ProblemError 422."""
    if isinstance(value, UnsetType):
        return None
    try:
        return past_time(value)
    except ValueError as exc:
        raise invalid_field("/purchased_on", str(exc)) from None


def decode(text: bytes, body: type[B]) -> B:
    """Return the struct in a JSON text. ProblemError 400, or 422 with all faults."""
    if len(text) > QUICK_BYTES:
        return convert(parse(text), body)
    try:
        decoded: B = DECODERS[body].decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return convert(parse(text), body)
    return decoded


def parse(text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. ProblemError 400; 422 for another value."""
    try:
        value = ANYTHING.decode(text)
    except msgspec.ValidationError:  # a number too large for it, and for every bound
        try:
            value = json.loads(text)
        except ValueError:
            value = json.loads(text, parse_int=_integer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _parse_leniently(text)
    if not isinstance(value, dict):
        raise invalid_field("", "Expected an object.")
    return value


def _parse_leniently(text: bytes) -> Any:
    """Return the value of a JSON text, lone surrogates and all. ProblemError 400."""
    # They are grammatical, and a fault of the value (RFC 8259, section 8.2).
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ProblemError(400, "The body is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise ProblemError(400, "The body is not JSON.") from None


def _integer(digits: str) -> int:
    # Python refuses to read more than some thousand digits; no bound here needs them.
    return int(digits[:40])


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON: RFC 8259, section 6


def convert(fields: dict[str, Any], body: type[B]) -> B:
    """Return the struct with these fields. ProblemError 422 with its faults."""
    errors = find_errors(fields, body)
    if errors:
        raise invalid(*errors)
    try:
        return body(**fields)
    except ValueError as exc:
        raise invalid_field("", str(exc)) from None


def find_errors(fields: dict[str, Any], body: type[Body]) -> list[FieldError]:
    """Return the faults of the fields of a struct, one more than a problem names.

    Numbers without a fraction become integers in `fields`, however they were written:
    `4.0` is an integer of JSON Schema (2020-12, section 6.1.1).
    """
    return [*islice(_find_errors(fields, body), MAX_ERRORS + 1)]


def _find_errors(fields: dict[str, Any], body: type[Body]) -> Iterator[FieldError]:
    for field in _fields_of(body):
        if field.name in fields:
            value = fields[field.name] = whole(fields[field.name])
            if isinstance(value, list) and field.type is PurchaseIds:
                yield from _errors_of_ids(f"/{field.name}", value)
            elif field.type is PastTime and isinstance(value, str):
                try:
                    past_time(value)
                except ValueError as exc:
                    yield FieldError(f"/{field.name}", str(exc))
            elif error := error_of(f"/{field.name}", value, field.type):
                yield error
        elif field.required:
            yield FieldError(f"/{field.name}", "It is missing.")
    for name in fields:
        if name not in body.__struct_fields__:
            yield FieldError(pointer_to(name), "There is no such field.")


@cache
def _fields_of(body: type[Body]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(body)


def pointer_to(name: str) -> str:
    """Return the pointer to a field of any name (RFC 6901), cut where it is long."""
    pointer = "/" + name[:200].replace("~", "~0").replace("/", "~1")
    return pointer.encode("utf-8", "replace").decode()


def whole(value: Any) -> Any:
    """Return the integer of a number without a fraction, another value as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def _errors_of_ids(pointer: str, ids: list[Any]) -> Iterator[FieldError]:
    if len(ids) > MAX_IDS:
        yield FieldError(pointer, f"Expected at most {MAX_IDS} ids.")
        return
    with suppress(msgspec.ValidationError):
        numbers = msgspec.convert(ids, list[int | float])
        ids[:] = msgspec.convert(numbers, list[Id], strict=False)
        return
    # msgspec stops at the first that is wrong.
    for index, number in enumerate(ids):
        if type(number) is float and number.is_integer():
            number = ids[index] = int(number)
        if not (type(number) is int and 0 < number <= MAX_ID):
            yield FieldError(f"{pointer}/{index}", EXPECTED_ID)


def error_of(pointer: str, value: Any, expected: Any) -> FieldError | None:
    """Return the fault of a value, None where there is none."""
    try:
        if isinstance(value, str):
            value = value[:1000]  # longer than any may be, and soon looked through
            value.encode()
        msgspec.convert(value, expected)
    except UnicodeEncodeError:  # it cannot be stored: RFC 8259, section 8.2
        return FieldError(pointer, "A lone surrogate is not text.")
    except msgspec.ValidationError as exc:
        message = str(exc)
        if " matching regex " in message:
            message = "Expected text that is not only white space"
            if "\0" in value:
                message = "Expected text without U+0000"
        return FieldError(pointer, message.replace("`", "") + ".")
    return None
