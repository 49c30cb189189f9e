"""Send the documented requests through a client generated from /openapi.json.

    python -m checks.client

openapi-python-client generates the client in a virtual environment of its own. No code
of this project encodes the requests or decodes the replies.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checks.support.server_process import PROJECT, print_table, serving
from checks.support.venvs import environment

GENERATOR = "openapi-python-client==0.29.1"
PACKAGE = "purchases_client"

SHORT_TIME = re.compile(r"[A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d")
LONG_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00")

JOHN = {"name": "John Doe", "address": "Amsterdam, NL"}
TEN = {"purchase_name": "Iphone 10 Pro", "quantity": 4}
TWELVE = {"purchase_name": "Iphone 12", "quantity": 4}
TWELVE_PRO = {"purchase_name": "Iphone 12 Pro", "quantity": 40}
NEVER_UPDATED = {"purchased_on": LONG_TIME, "last_updated_on": None}
UPDATED = {"purchased_on": LONG_TIME, "last_updated_on": LONG_TIME}


def _ok(data: object) -> dict[str, object]:
    return {"status": "ok", "data": data}


LISTED = _ok(
    [
        {"purchase_id": 1, **TEN, **NEVER_UPDATED, "customer_id": "1"},
        {"purchase_id": 2, **TWELVE, **NEVER_UPDATED, "customer_id": "1"},
    ]
)
ADDED = {"id": 2, **TWELVE, "customer_id": "1", "purchased_on": SHORT_TIME}
UPDATED_REPLY = _ok({"id": "2", **TWELVE_PRO, **UPDATED})

EXPECTED: dict[str, object] = {
    "create customer": _ok({"id": 1, **JOHN, "created_on": SHORT_TIME}),
    "add purchase": _ok(ADDED),
    "add purchase again, same Idempotency-Key": _ok(ADDED),
    "list purchases": LISTED,
    "list purchases, at the customer's path": LISTED,
    "update purchase, by DELETE": UPDATED_REPLY,
    "update purchase, by PATCH": UPDATED_REPLY,
    "delete purchases 2, 3 and 6": {"status": "ok", "deleted_count": 1},
    "delete all purchases": {"status": "ok", "deleted_count": 1},
    "read a purchase that is gone": {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no such purchase.",
        "request_id": re.compile(".+"),
    },
}
"""The reply to each request; a pattern stands for any text that it matches."""


def send_requests(url: str) -> dict[str, object]:
    """Send the requests with the generated package and return its replies."""
    api = f"{PACKAGE}.api"
    customers, purchases = f"{api}.customers", f"{api}.purchases"
    models = importlib.import_module(f"{PACKAGE}.models")
    client = importlib.import_module(PACKAGE).Client(base_url=url)

    def call(module: str, *args: object, **named: object) -> object:
        answer: Any = importlib.import_module(module).sync(
            *args, client=client, **named
        )
        return answer.to_dict()

    ten, twelve, pro = (
        models.NewPurchase.from_dict(body) for body in (TEN, TWELVE, TWELVE_PRO)
    )
    some = models.Deletion(delete_all=False, purchase_ids=[2, 3, 6])
    everything = models.DeletionOfAll(delete_all=True)
    add, delete = f"{purchases}.add_purchase", f"{purchases}.delete_purchases"
    john = models.NewCustomer.from_dict(JOHN)
    seen = {"create customer": call(f"{customers}.create_customer", body=john)}
    call(add, 1, body=ten)
    for again in ("", " again, same Idempotency-Key"):
        seen[f"add purchase{again}"] = call(add, 1, body=twelve, idempotency_key="one")
    listing = call(f"{purchases}.list_customer_purchases", 1)
    seen["list purchases"] = call(f"{purchases}.list_purchases")
    seen["list purchases, at the customer's path"] = listing
    seen["update purchase, by DELETE"] = call(delete, 2, body=pro)
    changes = models.PurchaseChanges.from_dict(TWELVE_PRO)
    seen["update purchase, by PATCH"] = call(
        f"{purchases}.change_purchase", 2, body=changes
    )
    seen["delete purchases 2, 3 and 6"] = call(delete, 1, body=some)
    seen["delete all purchases"] = call(delete, 1, body=everything)
    seen["read a purchase that is gone"] = call(f"{purchases}.read_purchase", 1, 2)
    return seen


def matches(expected: object, seen: object) -> bool:
    """Return whether a value is the expected one, of the same type."""
    if isinstance(expected, re.Pattern):
        return isinstance(seen, str) and expected.fullmatch(seen) is not None
    if isinstance(expected, dict) and isinstance(seen, dict):
        return expected.keys() == seen.keys() and all(
            matches(value, seen[name]) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(seen, list):
        return len(expected) == len(seen) and all(map(matches, expected, seen))
    return type(expected) is type(seen) and expected == seen


def generate_and_send(url: str, folder: Path) -> dict[str, object]:
    """Generate a client from the description at a URL, and use it in its environment.

    RuntimeError when it is not generated or fails.
    """
    programs = environment("client", GENERATOR)
    command: list[str | Path] = [programs / "openapi-python-client", "generate"]
    command += ["--url", f"{url}/openapi.json", "--meta", "none", "--fail-on-warning"]
    generated = subprocess.run(
        [*command, "--output-path", folder / PACKAGE], capture_output=True, text=True
    )
    if generated.returncode:
        raise RuntimeError(f"no client: {generated.stdout}{generated.stderr}")
    ended = subprocess.run(
        [programs / "python", "-m", "checks.client", "--send-to", url],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    if ended.returncode:
        raise RuntimeError(f"the client failed: {ended.stderr[-2000:]}")
    seen: dict[str, object] = json.loads(ended.stdout)
    return seen


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--send-to", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send_to:
        json.dump(send_requests(options.send_to), sys.stdout)
        return 0
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        seen = generate_and_send(server.url, Path(name))
    rows, breaches = [], 0
    for request, expected in EXPECTED.items():
        right = matches(expected, seen.get(request))
        breaches += not right
        rows.append((request, "as described" if right else seen.get(request)))
    print_table(("request, through the generated client", "answer"), rows)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
