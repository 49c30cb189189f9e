"""Cases of the history: the feed, undo, and deletion for good."""

import json
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from checks.hostile.case import (
    CHANGES,
    CUSTOMERS,
    MARK,
    PURCHASE,
    PURCHASES,
    Case,
    http,
)
from checks.hostile.trial import Trial, value_of
from checks.hostile.values import NOT_AFTER, NOT_CUSTOMERS, NOT_IDS, NOT_LIMITS
from checks.support.server_process import Server, exchange, request_bytes, serving

FAR = (str(10**17), str(2**63 - 1))
"""Cursors and changes that nothing has come to yet."""
NOT_CURSORS = (
    *NOT_AFTER,
    "",
    "+1",
    "1.0",
    "1e3",
    "%zz",
    "%D9%A1",
    str(2**63),
    "9" * 5000,
    "1&after=2",
)
NOT_OF_FEED = {
    "/caller": ("%00", MARK + "a" * 200, f"{MARK}&caller=a"),
    "/action": ("", "customer", "Customer.created", "customer.created%00", MARK, "%zz"),
    "/order": ("", "DESC", "up", MARK, "desc&order=desc", "asc&order=desc"),
    "/customer_id": (*NOT_CUSTOMERS, "", "1&customer_id=2", "%zz"),
    "/purchase_id": (*NOT_CUSTOMERS, "", "1&purchase_id=2", "%zz"),
}
NOBODY = ("", "%zz", MARK, "%F0%9F%98%80" * 200, "%27%20OR%201=1--", "%25")
"""Names that a caller may have, and none has."""


def feeds(trial: Trial) -> Iterator[Case]:
    """Yield parameters of the feed that are wrong, and some beyond its ends."""
    for path in (CHANGES, f"{CHANGES}/1"):
        for text in NOT_LIMITS:
            yield http("GET", f"{path}?limit={text}", None, 422, pointers=["/limit"])
        for text in NOT_CURSORS:
            yield http("GET", f"{path}?after={text}", None, 422, pointers=["/after"])
        for text in FAR:
            yield http("GET", f"{path}?after={text}", None, 200, data=[])
            yield http("GET", f"{path}?limit=9&after={text}", None, 200, data=[])
        for name in ("cursor", "Order", "change", "purge"):
            yield http("GET", f"{path}?{name}=1", None, 422, pointers=[f"/{name}"])
        yield http("GET", path, None, 406, headers=[("Accept", f"text/{MARK}")])
        yield http("GET", f"{path}?", None, 200)
        yield http("HEAD", path, None, 200)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            yield http(method, path, "{}", 405)
    for pointer, texts in NOT_OF_FEED.items():
        for text in texts:
            target = f"{CHANGES}?{pointer[1:]}={text}"
            yield http("GET", target, None, 422, pointers=[pointer])
    yield http("GET", f"{CHANGES}?caller={MARK}%FF", None, 422)
    for text in NOBODY:
        yield http("GET", f"{CHANGES}?caller={text}", None, 200, data=[])
    for text in (*NOT_IDS, *FAR):
        yield http("GET", f"{CHANGES}/{text}", None, 404)
        yield http("GET", f"{CHANGES}/{text}?after=1", None, 404)
    yield http("GET", f"{CHANGES}/", None, 404)


NOT_UNDONE: tuple[tuple[str | bytes, int], ...] = (
    (PURCHASE, 422),
    (f'{{"rows": ["{MARK}"]}}', 422),
    ("[]", 422),
    ("null", 422),
    (f'"{MARK}"', 422),
    ("{", 400),
    (f"{{}}{MARK}", 400),
    ("[" * 100_000, 400),
    (b"\xff", 400),
    (b"\xef\xbb\xbf{}", 400),
    ("{}" + " " * 300_000, 413),
)
REFUSED_FIELDS = (
    ("If-Match", '"1"', 412),
    ("If-Match", f'"{MARK}"', 412),
    ("If-Match", 'W/"1"', 412),
    ("If-Match", '"1", "2"', 412),
    ("If-Match", ",", 412),
    ("If-None-Match", "*", 412),
    ("Idempotency-Key", '"', 422),
    ("Idempotency-Key", MARK + "a" * 256, 422),
    ("Content-Encoding", "gzip", 415),
)


def change_of(trial: Trial, method: str, path: str, body: object = None) -> str:
    """Write something for a case; return the number of the change."""
    return str(trial.write(method, path, body).headers["Change"])


def undos(trial: Trial) -> Iterator[Case]:
    """Yield undos that are refused, each of a change that can be undone, and others."""
    for text in (*NOT_IDS, *FAR):
        yield http("POST", f"{CHANGES}/{text}/undo", None, 404)
        yield http("POST", f"{CHANGES}/{text}/undo", "{}", 404)
    bought = json.loads(PURCHASE)
    added = change_of(trial, "POST", PURCHASES, bought)
    path = f"{CHANGES}/{added}/undo"
    for body, right in NOT_UNDONE:
        yield http("POST", path, body, right)
    for name in ("text/plain", "application/merge-patch+json", MARK, ""):
        yield http("POST", path, "{}", 415, headers=[("Content-Type", name)])
    for name, value, right in REFUSED_FIELDS:
        yield http("POST", path, None, right, headers=[(name, value)])
    for query in (f"odd={MARK}", "limit=1", "purge=true", "=", "x=%00"):
        yield http("POST", f"{path}?{query}", None, 422)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        yield http(method, path, None, 405)
    yield http("POST", f"{path}/", None, 404)
    yield from undos_of_one(path)
    yield from undos_by_key(f"{CHANGES}/{change_of(trial, 'POST', PURCHASES, bought)}")
    yield from undos_of_many(trial)


def undos_of_one(path: str) -> Iterator[Case]:
    """Yield the undo of an addition, and what can only be refused after it."""
    yield http("POST", path, "{}", 201, headers=[("If-Match", "*")], rows=-1)
    for headers in ((), [("If-Match", '"1"')], [("Idempotency-Key", MARK)]):
        yield http("POST", path, None, 409, headers=headers)
    yield http("POST", f"{path}?odd=1", None, 422, pointers=["/odd"])
    yield http("POST", path, PURCHASE, 422)


def undos_by_key(change: str) -> Iterator[Case]:
    """Yield the undo of an addition with a key, and the same again."""
    path, key = f"{change}/undo", ("Idempotency-Key", f"key-{MARK}")
    yield http("POST", path, None, 412, headers=[key, ("If-Match", '"1"')])
    yield http("POST", path, None, 201, headers=[key], rows=-1)
    for body in (None, "{}"):
        yield http("POST", path, body, 201, headers=[key])
    yield http("POST", path, None, 412, headers=[key, ("If-Match", '"1"')])
    yield http("POST", path, PURCHASE, 422, headers=[key])
    yield http("POST", path, None, 409, headers=[("Idempotency-Key", "another")])
    yield http("GET", change, None, 200)


def undos_of_many(trial: Trial) -> Iterator[Case]:
    """Yield undos of a customer, of its purchases, and of what has changed since."""
    john = {"name": MARK, "address": MARK}
    created = trial.write("POST", CUSTOMERS, john)
    number, change = value_of(created, "id"), created.headers["Change"]
    bought, path = json.loads(PURCHASE), f"/api/v1/purchase/{number}"
    first = trial.write("POST", path, bought)
    one = f"/api/v1/purchase/{value_of(first, 'id')}"
    updates = [change_of(trial, "PATCH", one, {"quantity": n}) for n in (2, 3)]
    trial.write("POST", path, bought)
    yield http("POST", f"{CHANGES}/{change}/undo", None, 409)  # it has purchases
    yield http("POST", f"{CHANGES}/{updates[0]}/undo", None, 409)
    yield http("POST", f"{CHANGES}/{first.headers['Change']}/undo", None, 409)
    yield http("POST", f"{CHANGES}/{updates[1]}/undo", None, 201, rows=0)
    yield http("POST", f"{CHANGES}/{updates[0]}/undo", None, 201, rows=0)
    yield http("POST", f"{CHANGES}/{first.headers['Change']}/undo", None, 201, rows=-1)
    cleared = change_of(trial, "DELETE", path, {"delete_all": True})
    undo = f"{CHANGES}/{cleared}/undo"
    trial.write("DELETE", f"{CUSTOMERS}/{number}")
    yield http("POST", undo, None, 409)  # its customer is not there
    yield http("POST", f"{CHANGES}/{change}/undo", None, 409)


NOT_PURGED = (
    "maybe",
    "",
    "1",
    "TRUE",
    "true%00",
    "true&purge=true",
    "true&purge=false",
)


def erasures(trial: Trial) -> Iterator[Case]:
    """Yield deletions of a customer, refused and not, and what comes too late."""
    person = json.dumps({"name": MARK, "address": MARK})
    key = [("Idempotency-Key", f"first-{MARK}")]
    created = trial.write("POST", CUSTOMERS, json.loads(person), key)
    number = value_of(created, "id")
    path, list_path = f"{CUSTOMERS}/{number}", f"/api/v1/purchase/{number}"
    changes = [str(created.headers["Change"])]
    bought = json.loads(PURCHASE)
    changes += [change_of(trial, "POST", list_path, bought) for _ in range(2)]
    for text in NOT_PURGED:
        target = f"{path}?purge={text}"
        yield http("DELETE", target, None, 422, pointers=["/purge"])
    yield http("DELETE", f"{path}?purge=true&odd={MARK}", None, 422, pointers=["/odd"])
    for query in ("", "?purge=true", "?purge=false"):
        for field in (("If-Match", '"9"'), ("If-None-Match", "*")):
            yield http("DELETE", path + query, None, 412, headers=[field])
    yield from deletions(trial, path, list_path, person, key)
    changes.append(change_of(trial, "DELETE", path))
    yield http("DELETE", f"{path}?purge=true", None, 412, headers=[("If-Match", '"9"')])
    yield http("DELETE", f"{path}?purge=true", None, 200, rows=0)
    changes.append(str(trial.last.headers["Change"]))
    for query in ("", "?purge=true"):
        yield http("DELETE", path + query, None, 404)
    for body in (person, person.replace(MARK, "b")):
        yield http("POST", CUSTOMERS, body, 410, headers=key)
    for change in changes:
        yield http("POST", f"{CHANGES}/{change}/undo", None, 410)
        yield http("GET", f"{CHANGES}/{change}", None, 200)


def deletions(
    trial: Trial, path: str, list_path: str, person: str, key: list[tuple[str, str]]
) -> Iterator[Case]:
    """Yield the deletion of a customer with two purchases, and its undo."""
    yield http("DELETE", path, None, 200, rows=-3)
    undo = f"{CHANGES}/{trial.last.headers['Change']}/undo"
    for method, target, body in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("PATCH", path, f'{{"name": "{MARK}"}}'),
        ("GET", list_path, None),
        ("POST", list_path, PURCHASE),
        ("DELETE", list_path, '{"delete_all": true}'),
    ):
        yield http(method, target, body, 404)
    yield http("POST", CUSTOMERS, person, 410, headers=key)
    yield http("POST", undo, PURCHASE, 422)
    yield http("POST", undo, None, 201, rows=3)
    yield http("POST", undo, None, 409)
    yield http("POST", CUSTOMERS, person, 201, headers=key)  # the first answer again
    yield http("POST", CUSTOMERS, person.replace(MARK, "b"), 422, headers=key)


BY_READERS: tuple[tuple[str, str, str, int], ...] = (
    ("writer", "POST", CUSTOMERS, 201),
    ("reader", "POST", f"{CHANGES}/1/undo", 403),
    ("reader", "POST", f"{CHANGES}/1/undo?odd=1", 403),
    ("reader", "POST", f"{CHANGES}/99/undo", 403),
    ("reader", "DELETE", f"{CUSTOMERS}/1", 403),
    ("reader", "DELETE", f"{CUSTOMERS}/1?purge=true", 403),
    ("nobody", "POST", f"{CHANGES}/1/undo", 401),
    ("nobody", "GET", CHANGES, 401),
    ("nobody", "GET", f"{CHANGES}/1", 401),
    ("reader", "GET", f"{CHANGES}/2", 404),
    ("reader", "GET", f"{CHANGES}/1", 200),
    ("writer", "POST", f"{CHANGES}/1/undo", 201),
    ("reader", "GET", f"{CHANGES}/2", 200),
)
"""Who sends what, in turn, and the status that is right."""


def undos_by_readers(_: Server) -> list[str]:
    """Write to a server with tokens, one of which may only read; return the faults."""
    lines = (("writer", "write"), ("reader", "read"))
    faults = []
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "tokens").write_text(
            "".join(
                f"{who} {sha256(who.encode()).hexdigest()} {may}\n"
                for who, may in lines
            )
        )
        with serving(Path(name), {"API_TOKENS_FILE": "tokens"}) as server:
            for who, method, target, right in BY_READERS:
                body = b'{"name": "a", "address": ""}' if target == CUSTOMERS else None
                header = ("Authorization", f"Bearer {who}")
                request = request_bytes(method, target, body, [header])
                reply = exchange(server.port, request, method)
                wrong = reply.problem_faults() if right >= 400 else []
                if reply.status != right:
                    wrong.append(f"status {reply.status}")
                faults += [f"{who}, {method} {target}: {fault}" for fault in wrong]
    return faults
