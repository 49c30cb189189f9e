"""The description of the API (OpenAPI 3.1), made from the table of routes."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_origin

import msgspec
from msgspec import Meta

from api.conditional import KEY
from api.docs_page import ASSETS, STATIC
from api.listing import FORMATS
from api.responses import ENCODER, PHRASES, PROBLEM, ProblemDetails
from api.routing import JSON_ONLY, Route
from api.schemas import MAX_ID, Deletion, Id, NamePart, VersionedReply

Object = dict[str, Any]
CHANGING = ("PATCH", "PUT", "DELETE")


TEMPLATE = (STATIC / "openapi.json").read_bytes()
"""Every part of the description that does not depend on the routes. Its examples are
those of the description that this server was made from, where a list has no customer_id
and no customer is changed."""

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

PARAMETERS: Object = {
    "path": {
        "customer_id": (Id, "The id of a customer."),
        "purchase_id": (Id, "The id of a purchase."),
        "format": (Literal["csv", "jsonl"], "For spreadsheets, or JSON Lines."),
        "asset": (Literal["start.js", *ASSETS], "A file of the page."),
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

REF = "#/components/schemas/"


def describe(routes: Sequence[Route], version: str, secured: bool = True) -> bytes:
    """Return the description as JSON; `secured` says whether callers need a token."""
    return ENCODER.encode(_portable(_Description(routes).build(version, secured)))


def _schema(kind: Any) -> Object:
    """Return the schema of a type, its structs by reference."""
    return msgspec.json.schema_components([kind], ref_template=f"{REF}{{name}}")[0][0]


def _portable(value: Any) -> Any:
    """Return a schema with patterns of ECMA-262, and the format of large integers."""
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


def _parameters_of(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _is_list(route: Route) -> bool:
    return get_origin(route.reply) is list


def _has_tag(route: Route) -> bool:
    """Return whether a reply has an entity tag: one row, or a file."""
    return route.reply in VersionedReply.__subclasses__() or route.is_file


def _header_names(route: Route) -> list[str]:
    names = ["X-Request-Id"]
    if route.method == "POST":
        return ["Idempotency-Key", *names]
    if route.method in CHANGING:
        return ["If-Match", *names]
    return ["If-None-Match", *names] if _has_tag(route) else names


def _response(text: str, headers: list[str]) -> Object:
    names = [*headers, "X-Request-Id"]
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": text, "headers": references}


def _request_body(route: Route) -> Object:
    content: Object = {"schema": _schema(route.body)}
    if route.second_body is not None:
        second = route.second_body.body
        of_all = {"$ref": f"{REF}DeletionOfAll"}
        content["schema"] = {"anyOf": [_schema(Deletion), of_all, _schema(second)]}
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


def _content(route: Route) -> Object:
    schema = _schema(route.reply)
    if route.media_types != JSON_ONLY:
        return {media_type: {"schema": schema} for media_type in route.media_types}
    if route.path.startswith("/api/"):
        field = "deleted_count" if route.reply is int else "data"
        schema = _envelope(field, schema)
    if route.second_body is not None:
        second = _envelope("data", _schema(route.second_body.reply))
        schema = {"oneOf": [schema, second]}
    content: Object = {"application/json": {"schema": schema}}
    if _is_list(route):
        texts = [form.media_type for form in FORMATS[1:]]
        content |= {text: {"schema": _schema(str)} for text in texts}
    return content


class _Description:
    """The description of a table of routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.paths_of: dict[str, set[str]] = {}
        for route in routes:
            shape = re.sub(r"{\w+}", "{}", route.path)
            self.paths_of.setdefault(shape, set()).add(route.path)

    def build(self, version: str, secured: bool) -> Object:
        description: Object = msgspec.json.decode(TEMPLATE)
        description["info"]["version"] = version
        components = description["components"]
        bodies = [kind for route in self.routes for kind in route[3:5] if kind]
        _, schemas = msgspec.json.schema_components(
            [ProblemDetails, *bodies], ref_template=f"{REF}{{name}}"
        )
        for name, schema in schemas.items():
            added = components["schemas"].get(name, {})
            components["schemas"][name] = schema | added
        problem = {PROBLEM: {"schema": _schema(ProblemDetails)}}
        for status, response in components["responses"].items():
            headers = PROBLEM_HEADERS.get(int(status), [])
            response |= _response(response["description"], headers)
            response["content"] = problem
        for route in self.routes:
            operations = description["paths"].setdefault(self.path(route), {})
            operation = operations[route.method.lower()] = self.operation(route)
            if route.access != "public":
                operation["security"] = [{"bearer": []}, *([] if secured else [{}])]
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
        tags = [f"{row}s" for row in ("purchase", "customer") if row in name]
        summary, _, more = (inspect.getdoc(route.handler) or "").partition("\n\n")
        responses = {str(route.status): self.success(route)}
        if _has_tag(route) and route.method == "GET":
            responses["304"] = _response("Not modified.", ["ETag"])
        for statuses, applies in CAUSES.items():
            for status in statuses if applies(route) else ():
                responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
        operation = {
            "operationId": name,
            "summary": summary.rstrip("."),
            "description": more,
            "tags": [*tags, "server"][:1],
            "parameters": self.parameters(route),
            "responses": dict(sorted(responses.items())),
        }
        return operation if route.body is None else operation | _request_body(route)

    def parameters(self, route: Route) -> list[Object]:
        places = {
            "path": _parameters_of(route.path),
            "query": [name for name in PARAMETERS["query"] if name in route.query],
            "header": _header_names(route),
        }
        return [
            {
                "name": self.name(route, name) if place == "path" else name,
                "in": place,
                "description": PARAMETERS[place][name][1],
                "required": place == "path",
                "schema": _schema(PARAMETERS[place][name][0]),
            }
            for place, names in places.items()
            for name in names
        ]

    def success(self, route: Route) -> Object:
        headers = ["ETag"] if _has_tag(route) else []
        headers += ["Location", "Idempotency-Replayed"] if route.status == 201 else []
        headers += ["Link"] if _is_list(route) else []
        headers += ["Deprecation", "Link"] if route.second_body is not None else []
        response = _response(f"{PHRASES[route.status]}.", headers)
        return response | {"content": _content(route), "links": self.links(route)}

    def links(self, route: Route) -> Object:
        """Return the requests that a new row allows (OpenAPI 3.1.1, 4.8.20)."""
        row = "$response.body#/data/"
        ids: dict[str, str] = {}
        if route.status == 201:
            fields = route.reply.__struct_fields__
            own = "purchase_id" if "customer_id" in fields else "customer_id"
            ids = {name: f"{row}{name}" for name in fields if name.endswith("_id")}
            ids[own] = f"{row}id"
        links = {}
        for other in self.routes:
            names = _parameters_of(other.path)
            if names and ids.keys() >= set(names):
                target = other.name
                values = {self.name(other, name): ids[name] for name in names}
                links[target] = {"operationId": target, "parameters": values}
        return links
