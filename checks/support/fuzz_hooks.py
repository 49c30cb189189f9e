"""Rules of the API that OpenAPI cannot express, for the requests of checks.fuzz.

schemathesis imports this module; `before_call` changes a case before it is sent, after
which schemathesis decides again whether the description allows it.
"""

import json
import re
import uuid
from typing import Any

import schemathesis  # type: ignore[import-not-found]  # in the environment of checks.fuzz

DELETION = "DELETE /api/v1/purchase/{id}"
FIRST_BODIES: dict[tuple[str, str], str] = {}
"""The first body that was sent with an idempotency key, by path and key."""


def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    """Change a request that the description allows to one that the API allows too."""
    for name, value in (case.headers or {}).items():
        # schemathesis takes X-Request-Id for the id of a row and puts a number there.
        case.headers[name] = str(value)
    if case.operation.label == DELETION:
        choose_body_or_query(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.body is not schemathesis.core.NOT_SET:
        case.body = whole_numbers(case.body)
    use_key_once(case)


def choose_body_or_query(case: schemathesis.Case) -> None:
    """Keep either the body or the query: OpenAPI cannot describe that choice."""
    query = case.query
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if case.body is not schemathesis.core.NOT_SET:
            query.clear()
        elif not query.get("purchase_id"):
            query["delete_all"] = "true"
    elif case.body is schemathesis.core.NOT_SET and "purchase_id" in query:
        query.pop("delete_all", None)  # with it, an invalid purchase_id may be ignored


def whole_numbers(value: Any) -> Any:
    """Return a value with 4.0 as 4: only JSON Schema takes 4.0 for an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return value


def use_key_once(case: schemathesis.Case) -> None:
    """Give a different body a new key: with the first one it is refused."""
    key = (case.headers or {}).get("Idempotency-Key")
    if key is None:
        return
    body = json.dumps(case.body, sort_keys=True, default=str)
    bare = re.sub(
        r'^"(.+)"$', r"\1", key.strip()
    )  # the quotes do not belong to the key
    if FIRST_BODIES.setdefault((case.formatted_path, bare), body) != body:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())


schemathesis.hook(before_call)
