"""The description of the API (OpenAPI 3.1), made from the table of routes."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, get_origin

import msgspec

from api.pages import STATIC
from api.parameters import FEED_PARAMETERS, FILE, PARAMETERS
from api.responses import ENCODER, PHRASES, PROBLEM, ProblemDetails
from api.routing import JSON_ONLY, Route
from api.schemas import MAX_ID, CustomerState, Deletion, PurchaseState, VersionedReply

Object = dict[str, Any]
CHANGING = ("PATCH", "PUT", "DELETE")


TEMPLATE = (STATIC / "openapi.json").read_bytes()
"""Every part of the description that does not depend on the routes. Its examples are
those of the description that this server was made from, where a list has no customer_id
and no customer is changed."""

TEXTS = {
    name: text.strip()
    for name, _, text in (
        section.partition("\n")
        for section in (STATIC / "operations.md").read_text("utf-8").split("\n# ")
    )
}
"""Descriptions of single operations by the names of their handlers, and of kinds of
operations. The first section is the title of the file."""

CAUSES: dict[tuple[int, ...], Callable[[Route], bool]] = {
    (400, 422, 500, 503): lambda route: True,
    (401,): lambda route: route.access != "public",
    (403, 507): lambda route: route.access == "write",
    (404,): lambda route: "{" in route.path or _is_of_customer(route),
    (406,): lambda route: _is_list(route),
    (408, 413, 415): lambda route: route.body is not None or route.method == "POST",
    (409,): lambda route: route.method == "POST",
    (410,): lambda route: route.method == "POST" or _is_of_history(route),
    (412,): lambda route: route.access == "write" or _has_tag(route),
    (421,): lambda route: not route.is_probe,
}
"""Which routes may answer with which problems."""
PROBLEM_HEADERS = {401: ["WWW-Authenticate"], 503: ["Retry-After"]}

REF = "#/components/schemas/"


def describe(routes: Sequence[Route], version: str, secured: bool = True) -> bytes:
    """Return the description as JSON; `secured` says whether callers need a token."""
    return ENCODER.encode(_portable(_Description(routes).build(version, secured)))


def _schema(kind: Any) -> Object:
    """Return the schema of a type, its structs by reference."""
    return msgspec.json.schema_components([kind], ref_template=f"{REF}{{name}}")[0][0]


def _portable(value: Any) -> Any:
    """Return a schema with patterns of ECMA-262, and what tools do not infer.

    That is the format of large integers, and the type of words to choose from.
    """
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
    if isinstance(value.get("enum"), list):
        value["type"] = "string"
    return value


def _merge(schema: Object, added: Object) -> Object:
    """Return a schema with additions to it and to the schemas in it."""
    both = {
        name: _merge(schema[name], added[name])
        for name in schema.keys() & added.keys()
        if isinstance(added[name], dict)
    }
    return schema | added | both


def _envelope(field: str, schema: Object) -> Object:
    fields = {"status": {"type": "string", "const": "ok"}, field: schema}
    return {"type": "object", "properties": fields, "required": list(fields)}


def _parameters_of(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _is_list(route: Route) -> bool:
    return get_origin(route.reply) is list and route.media_types == JSON_ONLY


def _is_of_history(route: Route) -> bool:
    return route.path.startswith("/api/v1/changes")


def _is_of_customer(route: Route) -> bool:
    """Return whether a list is perhaps that of one customer."""
    return "customer_id" in route.query and not _is_of_history(route)


def _is_download(route: Route) -> bool:
    return "format" in _parameters_of(route.path)


def _has_count(route: Route) -> bool:
    """Return whether a reply is a list whose rows can be counted."""
    is_list = _is_list(route) or _is_download(route)
    return is_list and "after" in route.query and not _is_of_history(route)


def _has_row(route: Route) -> bool:
    """Return whether a reply is one row."""
    return route.reply in VersionedReply.__subclasses__()


def _has_tag(route: Route) -> bool:
    """Return whether a reply has an entity tag: one row, or a file."""
    return _has_row(route) or route.is_file


def _response(text: str, headers: list[str]) -> Object:
    names = [*headers, "X-Request-Id"]
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": text, "headers": references}


def _request_body(route: Route) -> Object:
    if route.file_type:
        # CSV and JSON Lines are left to the text: not every generator knows them.
        file = {"schema": _text_schema(route.file_type), "example": FILE}
        return {"requestBody": {"required": True, "content": {route.file_type: file}}}
    content: Object = {"schema": _schema(route.body)}
    if route.second_body is not None:
        second = route.second_body.body
        of_all = {"$ref": f"{REF}DeletionOfAll"}
        content["schema"] = {"oneOf": [_schema(Deletion), of_all, _schema(second)]}
        content["examples"] = {
            name: {"$ref": f"#/components/examples/{name}"}
            for name in ("delete", "update")
        }
    types = ["application/json"]
    if route.method == "PATCH":
        types.append("application/merge-patch+json")
    body = {
        "required": route.method != "DELETE",
        "content": dict.fromkeys(types, content),
    }
    return {"requestBody": body}


def _text_schema(media_type: str) -> Object:
    """Return the schema of a body that is not JSON: text, or bytes."""
    # OpenAPI 3.1 wants no schema for bytes, but generators need one, as 3.0 had it.
    is_text = media_type.startswith("text/") or "json" in media_type
    return {"type": "string"} | ({} if is_text else {"format": "binary"})


def _content(route: Route) -> Object:
    if route.media_types != JSON_ONLY:
        return {kind: {"schema": _text_schema(kind)} for kind in route.media_types}
    schema = _schema(route.reply)
    if get_origin(route.reply) is dict:  # or generators make a type without any field
        schema["additionalProperties"] = True
    if route.path.startswith("/api/"):
        field = "deleted_count" if route.reply is int else "data"
        schema = _envelope(field, schema)
    if route.second_body is not None:
        second = _envelope("data", _schema(route.second_body.reply))
        schema = {"oneOf": [schema, second]}
    # The other types of a list are left to its text: generated clients send no Accept
    # for what they decode, and openapi-typescript would take `data` for a string.
    return {"application/json": {"schema": schema}}


class _Description:
    """The description of a table of routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.paths_of: dict[str, set[str]] = {}
        for route in routes:
            shape = re.sub(r"{\w+}", "{}", route.path)
            self.paths_of.setdefault(shape, set()).add(route.path)
        self.rows = {
            route.path for route in routes if route.method == "GET" and _has_tag(route)
        }
        """The paths of what has an entity tag."""

    def build(self, version: str, secured: bool) -> Object:
        description: Object = msgspec.json.decode(TEMPLATE)
        description["info"]["version"] = version
        components = description["components"]
        bodies = [kind for route in self.routes for kind in route[3:5] if kind]
        _, schemas = msgspec.json.schema_components(
            [ProblemDetails, CustomerState, PurchaseState, *bodies],
            ref_template=f"{REF}{{name}}",
        )
        for name, schema in schemas.items():
            added = components["schemas"].get(name, {})
            components["schemas"][name] = _merge(schema, added)
        problem = {PROBLEM: {"schema": _schema(ProblemDetails)}}
        for status, response in components["responses"].items():
            headers = PROBLEM_HEADERS.get(int(status), [])
            response |= _response(response["description"], headers)
            response["content"] = problem
        for route in self.routes:
            operations = description["paths"].setdefault(self.path(route), {})
            operation = operations[route.method.lower()] = self.operation(route)
            operation["security"] = [{"bearer": []}, *([] if secured else [{}])]
            if route.access == "public":
                operation["security"] = []
        return description

    def name(self, route: Route, parameter: str) -> str:
        """Return the name that a parameter of a path has in the description."""
        # Paths that differ only in a name are one path to OpenAPI, with one name.
        paths = self.paths_of[re.sub(r"{\w+}", "{}", route.path)]
        return "id" if len(paths) > 1 else parameter

    def path(self, route: Route) -> str:
        return re.sub(
            r"{(\w+)}", lambda found: f"{{{self.name(route, found[1])}}}", route.path
        )

    def operation(self, route: Route) -> Object:
        name = route.name
        tags = ["history"] if _is_of_history(route) else []
        tags += ["imports"] if route.file_type else []
        tags += [f"{row}s" for row in ("purchase", "customer") if row in name]
        summary = (inspect.getdoc(route.handler) or "").partition("\n\n")[0]
        responses = {str(route.status): self.success(route)}
        if "dry_run" in route.query:
            done = _response("OK: what it would do, or nothing to do.", [])
            responses["200"] = done | {"content": _content(route)}
        if route.has_page:
            sent = "See Other: the page for people, where `Accept` prefers HTML."
            responses["303"] = _response(sent, ["Location"])
        if _has_tag(route) and route.method == "GET":
            responses["304"] = _response("Not modified.", ["ETag"])
        for statuses, applies in CAUSES.items():
            for status in statuses if applies(route) else ():
                responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
        operation = {
            "operationId": name,
            "summary": summary.rstrip(".") + (", as a file" * _is_download(route)),
            "description": "\n\n".join(self.texts(route)),
            "tags": [*tags, "server"][:1],
            "parameters": self.parameters(route),
            "responses": dict(sorted(responses.items())),
        }
        has_body = route.body is not None or route.file_type
        return operation | _request_body(route) if has_body else operation

    def texts(self, route: Route) -> list[str]:
        """Return the paragraphs that describe an operation."""
        kinds = {
            route.name: True,
            "of a list": _is_list(route) and _has_count(route),
            "of the history": _is_list(route) and _is_of_history(route),
            "of a download": _is_download(route),
            "of an addition": route.method == "POST",
            "of a write": route.access == "write",
            "of one row": route.method == "GET" and _has_row(route),
            "of a change": "If-Match" in self.conditions(route),
            "of a change elsewhere": self.is_elsewhere(route),
        }
        return [TEXTS[kind] for kind, holds in kinds.items() if holds and kind in TEXTS]

    def conditions(self, route: Route) -> list[str]:
        """Return the headers of a request that make it conditional or repeatable."""
        if route.method == "POST":
            return ["Idempotency-Key"]
        if route.method in CHANGING:
            # A list has no tag that could be sent.
            return ["If-Match"] if _has_row(route) or route.path in self.rows else []
        if _has_count(route):
            return ["Prefer"]
        return ["If-None-Match"] if _has_tag(route) else []

    def is_elsewhere(self, route: Route) -> bool:
        """Return whether the row of a reply has another address than the request."""
        changes = route.method in CHANGING and _has_row(route)
        return changes and route.path not in self.rows

    def parameters(self, route: Route) -> list[Object]:
        places = {
            "path": _parameters_of(route.path),
            "query": [name for name in PARAMETERS["query"] if name in route.query],
            "header": self.conditions(route),
        }
        known = dict(PARAMETERS)
        if _is_of_history(route):
            known["query"] = known["query"] | FEED_PARAMETERS
        return [
            {
                "name": self.name(route, name) if place == "path" else name,
                "in": place,
                "description": known[place][name][1],
                "required": place == "path" or name == "by",
                "schema": _schema(known[place][name][0]),
            }
            for place, names in places.items()
            for name in names
        ]

    def success(self, route: Route) -> Object:
        headers = ["ETag"] if _has_tag(route) else []
        headers += ["Content-Location"] if self.is_elsewhere(route) else []
        headers += ["Location", "Idempotency-Replayed"] if route.status == 201 else []
        headers += ["Change"] if route.access == "write" else []
        headers += ["Link"] if {"limit", "after"} <= route.query else []
        if _has_count(route):
            headers += ["Feed-Cursor", "Preference-Applied", "Total-Count"]
        headers += ["Content-Disposition"] if _is_download(route) else []
        headers += ["Deprecation", "Link"] if route.second_body is not None else []
        response = _response(f"{PHRASES[route.status]}.", headers)
        return response | {"content": _content(route), "links": self.links(route)}

    def links(self, route: Route) -> Object:
        """Return the requests that a reply allows (OpenAPI 3.1.1, 4.8.20)."""
        row = "$response.body#/data/"
        ids: dict[str, str] = {}
        if route.status == 201 and not _is_of_history(route):
            fields = route.reply.__struct_fields__
            own = "purchase_id" if "customer_id" in fields else "customer_id"
            ids = {name: f"{row}{name}" for name in fields if name.endswith("_id")}
            ids[own] = f"{row}id"
        if route.access == "write":
            ids["change_id"] = "$response.header.Change"
        links = {}
        for other in self.routes:
            names = _parameters_of(other.path)
            if names and ids.keys() >= set(names):
                target = other.name
                values = {self.name(other, name): ids[name] for name in names}
                links[target] = {"operationId": target, "parameters": values}
        return links
