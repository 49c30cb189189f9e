"""What the contract says and OpenAPI cannot, for the requests that fuzz.py makes.

schemathesis loads this module; `before_call` changes a case before it is sent, after
which schemathesis judges anew whether the description allows it.
"""

import json
import re
import uuid
from typing import Any

import schemathesis  # type: ignore[import-not-found]  # in fuzz.py's environment

DELETION = "DELETE /api/v1/purchase/{id}"
FIRST_BODIES: dict[tuple[str, str], str] = {}
"""The body that each idempotency key came with first, by path and key."""


def before_call(
    context: schemathesis.HookContext,
    case: schemathesis.Case,
    kwargs: dict[str, Any],
) -> None:
    """Make a request that the description allows one that the contract allows too."""
    for name, value in (case.headers or {}).items():
        # X-Request-Id is taken for the id of a row, and a number cannot be sent.
        case.headers[name] = str(value)
    if case.operation.label == DELETION:
        choose_body_or_query(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.body is not schemathesis.core.NOT_SET:
        case.body = whole_numbers(case.body)
    use_key_once(case)


def choose_body_or_query(case: schemathesis.Case) -> None:
    """Select what to delete once: a query cannot be described as excluding a body."""
    query = case.query
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if case.body is not schemathesis.core.NOT_SET:
            query.clear()
        elif not query.get("purchase_id"):
            query["delete_all"] = "true"
    elif case.body is schemathesis.core.NOT_SET and "purchase_id" in query:
        query.pop("delete_all", None)  # or what is forbidden there might be ignored


def whole_numbers(value: Any) -> Any:
    """Return a value without 4.0, which is an integer to JSON Schema alone."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return value


def use_key_once(case: schemathesis.Case) -> None:
    """Give another body another key: with the first one it is refused."""
    key = (case.headers or {}).get("Idempotency-Key")
    if key is None:
        return
    body = json.dumps(case.body, sort_keys=True, default=str)
    bare = re.sub(r'^"(.+)"$', r"\1", key.strip())  # quotes are no part of a key
    if FIRST_BODIES.setdefault((case.formatted_path, bare), body) != body:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())


schemathesis.hook(before_call)
