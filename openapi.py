"""The description of the API (OpenAPI 3.1) and its page, made from ROUTES."""

import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_origin
from zlib import crc32

import msgspec
from msgspec import UNSET, Meta, UnsetType
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

import handlers
from bodies import MAX_ID, Changes, Deletion, Id, NamePart, NewPurchase
from conditions import KEY
from handlers import (
    PURCHASE,
    PURCHASES,
    ROUTES,
    PurchaseAdded,
    PurchaseReply,
    Route,
    Tagged,
)
from lists import FORMATS
from replies import ENCODER, JSON, PHRASES, PROBLEM

Object = dict[str, Any]
CHANGING = ("PATCH", "PUT", "DELETE")


class Fault(msgspec.Struct):
    """What is wrong, and a JSON pointer to the place."""

    pointer: str
    detail: str


class ProblemDetails(msgspec.Struct):
    """What went wrong with a request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[Fault] | UnsetType = UNSET


ABOUT = """\
Customers, and what they bought. A success is `{"status": "ok", …}`; anything else is a
problem (RFC 9457). Unknown fields and query parameters are refused. `HEAD` works
wherever `GET` does, and `OPTIONS` answers with `Allow`. A POST that carries an
`Idempotency-Key` may be sent again, and `If-Match` keeps an update from being lost.
"""
TAGS = ("customers", "purchases", "server")

PROBLEMS = {
    400: "Not HTTP/1.1, or not JSON.",
    401: "No token, or an unknown one.",
    403: "The token may only read.",
    404: "There is nothing with this id.",
    406: "None of the media types is acceptable.",
    408: "The body came too slowly.",
    409: "A request with the same Idempotency-Key is being worked on.",
    412: "The row has changed since.",
    413: "The body is too large.",
    415: "A body of another media type, or with a Content-Encoding.",
    422: "Something is not valid; `errors` names every fault.",
    500: "An unknown fault; the log has it under the request's id.",
    503: "Too busy, or the database is out of reach.",
    507: "The disk is full.",
}
CAUSES: dict[tuple[int, ...], Callable[[Route], bool]] = {
    (400, 422, 500, 503): lambda route: True,
    (401,): lambda route: route.access != "public",
    (403, 507): lambda route: route.access == "write",
    (404,): lambda route: "{" in route.path or "customer_id" in route.query,
    (406,): lambda route: _is_list(route),
    (408, 413, 415): lambda route: route.body is not None,
    (409,): lambda route: route.method == "POST",
    (412,): lambda route: route.method in CHANGING,
}
"""Which routes may answer with which problems."""
PROBLEM_HEADERS = {401: ["WWW-Authenticate"], 503: ["Retry-After"]}

HEADERS = {
    "X-Request-Id": (True, "The id of the request: the caller's, or the server's."),
    "ETag": (True, "The version of the row."),
    "Location": (True, "The path of the new row."),
    "WWW-Authenticate": (True, "The scheme: Bearer."),
    "Retry-After": (True, "Seconds to wait before the next try."),
    "Idempotency-Replayed": (False, "`true` when the first answer is given again."),
    "Link": (False, "The page that follows, or why the request is deprecated."),
    "Deprecation": (False, "Since when the request is deprecated (RFC 9745)."),
}

FILES = ("favicon-32x32.png", "index.css", "swagger-ui-bundle.js", "swagger-ui.css")
PARAMETERS: Object = {
    "path": {
        "customer_id": (Id, "The id of a customer."),
        "purchase_id": (Id, "The id of a purchase."),
        "asset": (Literal["start.js", *FILES], "A file of the page."),
    },
    "query": {
        "limit": (Annotated[int, Meta(ge=1, le=1000)], "At most so many rows."),
        "after": (Annotated[int, Meta(ge=0, le=MAX_ID)], "Only rows past this id."),
        "customer_id": (Id, "Only the purchases of this customer."),
        "name": (NamePart, "A part of the name."),
        "delete_all": (bool, "In place of a body: delete all."),
        "purchase_id": (list[Id], "In place of a body: delete these."),
    },
    "header": {
        "X-Request-Id": (str, "An id for the log: 1 to 64 of `A-Z a-z 0-9 . _ -`."),
        "Idempotency-Key": (
            Annotated[str, Meta(pattern=f"^(?:{KEY.pattern})$")],
            "Kept for 24 hours: the same request again has the same answer.",
        ),
        "If-Match": (str, "Change the row only while its entity tag is one of these."),
        "If-None-Match": (str, "Answer 304 while the entity tag is one of these."),
    },
}

# The examples of the description that this server was made from; there, a list has no
# customer_id, and no customer is changed.
EXAMPLES: dict[str, list[Object]] = msgspec.json.decode("""{
"NewCustomer": [{"name": "John Doe", "address": "Amsterdam, NL"}],
"CustomerReply": [{"id": 1, "name": "John Doe", "address": "Amsterdam, NL",
  "created_on": "Apr 09 2022 12:43:17"}],
"CustomerChanges": [{"address": "Amsterdam, NL"}],
"NewPurchase": [{"purchase_name": "Iphone 12", "quantity": 4},
  {"purchase_name": "Iphone 12 Pro", "quantity": 40}],
"PurchaseAdded": [{"id": 2, "purchase_name": "Iphone 12", "quantity": 4,
  "customer_id": "1", "purchased_on": "Apr 09 2022 12:43:28"}],
"PurchaseListed": [{"purchase_id": 1, "purchase_name": "Iphone 10 Pro", "quantity": 4,
  "purchased_on": "2022-04-09 12:43:22.237526+00:00", "last_updated_on": null,
  "customer_id": "1"}, {"purchase_id": 2, "purchase_name": "Iphone 12 Pro",
  "quantity": 40, "purchased_on": "2022-04-09 12:43:28.321654+00:00",
  "last_updated_on": "2022-04-09 12:43:56.924416+00:00", "customer_id": "1"}],
"Deletion": [{"delete_all": false, "purchase_ids": [3, 6]}],
"PurchaseChanges": [{"purchase_name": "Iphone 12 Pro", "quantity": 40}],
"PurchaseReply": [{"id": "2", "purchase_name": "Iphone 12 Pro", "quantity": 40,
  "purchased_on": "2022-04-09 12:43:28.321654+00:00",
  "last_updated_on": "2022-04-09 12:43:56.924416+00:00"}]
}""")

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
NOT_JSON = {
    handlers.metrics: ("text/plain",),
    handlers.docs: ("text/html",),
    handlers.docs_asset: tuple(kind.partition(";")[0] for kind in TYPES.values()),
}
REF = "#/components/schemas/"
TWO_BODIES = handlers.delete_purchases
"""The deletion, which is also the update as it was first described."""


def describe(secured: bool = True) -> Object:
    """Return the description; `secured` says whether callers need a token."""
    paths: dict[str, Object] = {}
    for route in ROUTES:
        operations = paths.setdefault(_path(route), {})
        operation = operations[route.method.lower()] = _operation(route)
        if route.access != "public":
            operation["security"] = [{"bearer": []}, *([] if secured else [{}])]
    title = "Customer purchase server"
    description: Object = {
        "openapi": "3.1.1",
        "info": {"title": title, "version": handlers.VERSION, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": {
                name: {"description": text, "required": always, "schema": _schema(str)}
                for name, (always, text) in HEADERS.items()
            },
            "responses": {str(status): _problem(status) for status in PROBLEMS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    portable: Object = _portable(description)
    return portable


# Schemas


def _schema(kind: Any) -> Object:
    """Return the schema of a type, its structs by reference."""
    return msgspec.json.schema_components([kind], ref_template=f"{REF}{{name}}")[0][0]


def _schemas() -> Object:
    """Return the schemas of all structs, with what their types cannot say."""
    kinds = [ProblemDetails, *(kind for route in ROUTES for kind in route[3:5] if kind)]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=f"{REF}{{name}}")
    for name, examples in EXAMPLES.items():
        schemas[name]["examples"] = examples
    for changes in Changes.__subclasses__():
        schemas[changes.__name__]["minProperties"] = 1
    schemas["Deletion"]["required"] = ["purchase_ids"]
    schemas["DeletionOfAll"] = {
        "title": "DeletionOfAll",
        "description": "All of a customer's purchases, whatever `purchase_ids` holds.",
        "type": "object",
        "properties": {"delete_all": {"const": True}, "purchase_ids": {}},
        "required": ["delete_all"],
        "additionalProperties": False,
    }
    return schemas


def _portable(value: Any) -> Any:
    """Return it with patterns as ECMA-262 has them, and the size of large integers."""
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: _portable(item) for name, item in value.items()}
    if isinstance(pattern := value.get("pattern"), str):
        value["pattern"] = re.sub(
            r"[^!-~]", lambda char: f"\\u{ord(char[0]):04x}", pattern
        )
    if value.get("type") == "integer" and value.get("maximum", MAX_ID) > 2**31:
        value["format"] = "int64"
    return value


def _envelope(field: str, schema: Object) -> Object:
    fields = {"status": {"const": "ok"}, field: schema}
    return {"type": "object", "properties": fields, "required": list(fields)}


# Operations


def _name(route: Route, name: str) -> str:
    # Templates that differ only in a name are one path to OpenAPI, with one name.
    return "id" if route.path in (PURCHASES, PURCHASE) else name


def _path(route: Route) -> str:
    return re.sub(r"{(\w+)}", lambda found: f"{{{_name(route, found[1])}}}", route.path)


def _is_list(route: Route) -> bool:
    return get_origin(route.reply) is list


def _has_tag(route: Route) -> bool:
    """Return whether a route answers with one row, or a page: with an entity tag."""
    of_the_page = (handlers.description, handlers.docs, handlers.docs_asset)
    return route.reply in Tagged.__subclasses__() or route.handler in of_the_page


def _operation(route: Route) -> Object:
    name = route.handler.__name__
    summary, _, more = (inspect.getdoc(route.handler) or "").partition("\n\n")
    tags = [f"{row}s" for row in ("purchase", "customer") if row in name] + ["server"]
    answers = {str(route.status): _success(route)}
    if _has_tag(route) and route.method == "GET":
        answers["304"] = _response("Not modified.", ["ETag"])
    for statuses, applies in CAUSES.items():
        for status in statuses if applies(route) else ():
            answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    operation = {
        "operationId": name,
        "summary": summary.rstrip("."),
        "description": more,
        "tags": tags[:1],
        "parameters": _parameters(route),
        "responses": dict(sorted(answers.items())),
    }
    return operation if route.body is None else operation | _request_body(route)


def _parameters(route: Route) -> list[Object]:
    places = {
        "path": re.findall(r"{(\w+)}", route.path),
        "query": [name for name in PARAMETERS["query"] if name in route.query],
        "header": [],
    }
    if route.method == "POST":
        places["header"].append("Idempotency-Key")
    elif route.method in CHANGING:
        places["header"].append("If-Match")
    elif _has_tag(route):
        places["header"].append("If-None-Match")
    places["header"].append("X-Request-Id")
    return [
        {
            "name": _name(route, name) if place == "path" else name,
            "in": place,
            "description": PARAMETERS[place][name][1],
            "required": place == "path",
            "schema": _schema(PARAMETERS[place][name][0]),
        }
        for place, names in places.items()
        for name in names
    ]


def _request_body(route: Route) -> Object:
    content: Object = {"schema": _schema(route.body)}
    if route.handler is TWO_BODIES:
        of_all = {"$ref": f"{REF}DeletionOfAll"}
        content["schema"] = {"anyOf": [_schema(Deletion), of_all, _schema(NewPurchase)]}
        content["examples"] = {
            "delete": {"value": EXAMPLES["Deletion"][0]},
            "update": {"value": EXAMPLES["NewPurchase"][1]},
        }
    types = ["application/json"]
    if route.method == "PATCH":
        types.append("application/merge-patch+json")
    body = {
        "required": route.method != "DELETE",
        "content": dict.fromkeys(types, content),
    }
    return {"requestBody": body}


# Answers


def _response(text: str, headers: list[str]) -> Object:
    names = [*headers, "X-Request-Id"]
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": text, "headers": references}


def _problem(status: int) -> Object:
    answer = _response(PROBLEMS[status], PROBLEM_HEADERS.get(status, []))
    return answer | {"content": {PROBLEM: {"schema": _schema(ProblemDetails)}}}


def _success(route: Route) -> Object:
    headers = ["ETag"] if _has_tag(route) else []
    headers += ["Location", "Idempotency-Replayed"] if route.status == 201 else []
    headers += ["Link"] if _is_list(route) else []
    headers += ["Deprecation", "Link"] if route.handler is TWO_BODIES else []
    answer = _response(f"{PHRASES[route.status]}.", headers)
    return answer | {"content": _content(route), "links": _links(route)}


def _content(route: Route) -> Object:
    schema = _schema(route.reply)
    if route.handler in NOT_JSON:
        return {kind: {"schema": schema} for kind in NOT_JSON[route.handler]}
    if route.path.startswith("/api/"):
        field = "deleted_count" if route.reply is int else "data"
        schema = _envelope(field, schema)
    if route.handler is TWO_BODIES:
        schema = {"oneOf": [schema, _envelope("data", _schema(PurchaseReply))]}
    content: Object = {"application/json": {"schema": schema}}
    if _is_list(route):
        texts = [form.media_type for form in FORMATS[1:]]
        content |= {text: {"schema": _schema(str)} for text in texts}
    return content


def _links(route: Route) -> Object:
    """Return what can be asked about a new row (OpenAPI 3.1.1, section 4.8.20)."""
    row, ids = "$response.body#/data/", {}
    if route.reply is PurchaseAdded:
        ids = {"customer_id": f"{row}customer_id", "purchase_id": f"{row}id"}
    elif route.status == 201:
        ids = {"customer_id": f"{row}id"}
    links = {}
    for other in ROUTES:
        names = re.findall(r"{(\w+)}", other.path)
        if names and ids.keys() >= set(names):
            target = other.handler.__name__
            values = {_name(other, name): ids[name] for name in names}
            links[target] = {"operationId": target, "parameters": values}
    return links


# The page

PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Customer purchase server</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/index.css">
<script src="docs/swagger-ui-bundle.js" defer></script>
<script src="docs/start.js" defer></script>
</head>
<body><div id="swagger-ui"></div></body>
</html>
"""
START = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


@cache
def pages(secured: bool = True) -> dict[str, handlers.Page]:
    """Return what /openapi.json, /docs and the files of the page answer with."""
    files = {
        "/openapi.json": (ENCODER.encode(describe(secured)), JSON),
        "/docs": (PAGE, "text/html; charset=utf-8"),
        "/docs/start.js": (START, TYPES[".js"]),
    }
    for name in FILES:
        file = swagger_ui_path / name
        files[f"/docs/{name}"] = (file.read_bytes(), TYPES[file.suffix])
    return {
        path: handlers.Page(crc32(body), body, kind)
        for path, (body, kind) in files.items()
    }
