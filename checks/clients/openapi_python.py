"""Send the requests of the check with the client of openapi-python-client.

It runs in an environment of its own, where mypy reads it together with that client.
"""

import json
import sys
from io import BytesIO
from typing import Any

from generated import AuthenticatedClient, models, types
from generated.api.customers import (
    change_customer,
    create_customer,
    download_customers,
    erase_customer,
    find_customers,
    read_customer,
)
from generated.api.history import read_change, read_changes, undo_change
from generated.api.imports import import_file
from generated.api.purchases import (
    add_purchase,
    change_customer_purchase,
    change_purchase,
    delete_purchases,
    download_purchases,
    list_customer_purchases,
    list_purchases,
    read_purchase,
    replace_customer_purchase,
    replace_purchase,
    summarize_purchases,
)
from generated.api.server import (
    console,
    console_file,
    description,
    docs,
    docs_asset,
    livez,
    metrics,
    read_caller,
    readyz,
    welcome,
)

TEN = models.NewPurchase("Iphone 10 Pro", 4)
TWELVE = models.NewPurchase("Iphone 12", 4)
PRO = models.PurchaseValues("Iphone 12 Pro", 40)
ROWS = b"""customer_name,customer_address,purchase_name,quantity,purchased_on
Jane Roe,Delft,Iphone X,2,2019-11-30
"""

seen: dict[str, Any] = {}


def keep(name: str, reply: Any) -> None:
    """Keep a reply under the name of its request."""
    seen[name] = reply if isinstance(reply, str | None) else reply.to_dict()


def change_all(client: AuthenticatedClient) -> None:
    """Send what adds, reads and changes."""
    john = models.NewCustomer("John Doe", "Amsterdam, NL")
    created = create_customer.sync(client=client, body=john)
    keep("create customer", created)
    assert isinstance(created, models.CreateCustomerResponse201)
    one = created.data.id
    add_purchase.sync(one, client=client, body=TEN)
    for again in ("", " again, same Idempotency-Key"):
        added = add_purchase.sync(
            one, client=client, body=TWELVE, idempotency_key="one"
        )
        keep(f"add purchase{again}", added)
    listed = list_purchases.sync(client=client)
    keep("list purchases", listed)
    assert isinstance(listed, models.ListPurchasesResponse200)
    two = listed.data[1].purchase_id
    first = list_purchases.sync(client=client, customer_id=one, limit=1)
    keep("list the first purchase of a customer", first)
    at_path = list_customer_purchases.sync(one, client=client)
    keep("list purchases, at the customer's path", at_path)
    updated = delete_purchases.sync(two, client=client, body=PRO)
    keep("update purchase, by DELETE", updated)
    five = models.PurchaseChanges(quantity=5)
    changed = change_purchase.sync(two, client=client, body=five)
    keep("update purchase, by PATCH", changed)
    replaced = replace_purchase.sync(two, client=client, body=PRO)
    keep("update purchase, by PUT", replaced)
    keep("read purchase", read_purchase.sync(one, two, client=client))


def change_customers(client: AuthenticatedClient) -> None:
    """Read, change and find a customer, with its entity tag; see and undo that."""
    listed = list_purchases.sync_detailed(client=client, limit=1)
    read = read_customer.sync_detailed(1, client=client)
    keep("read customer", read.parsed)
    delft = models.CustomerChanges(address="Delft, NL")
    for tag in ("ETag", "ETag that is old"):
        given = read.headers["ETag"]
        changed = change_customer.sync(1, client=client, body=delft, if_match=given)
        keep(f"change customer with an {tag}", changed)
    keep("find customers", find_customers.sync(client=client, name="JOHN"))
    csv = models.DownloadCustomersFormat.CSV
    keep("download customers as CSV", download_customers.sync(csv, client=client))
    jsonl = models.DownloadPurchasesFormat.JSONL
    rows = download_purchases.sync(jsonl, client=client, limit=1)
    keep("download purchases as JSON Lines", rows)
    see_history(client, listed.headers["Feed-Cursor"])


def see_history(client: AuthenticatedClient, cursor: str) -> None:
    """Follow the feed from a cursor, and undo the last change."""
    followed = read_changes.sync(client=client, after=cursor)
    keep("follow the feed from a list", followed)
    last = read_changes.sync(
        client=client,
        purchase_id=2,
        action=models.ReadChangesAction.PURCHASE_UPDATED,
        caller="fuzz",
        order=models.ReadChangesOrder.DESC,
        limit=1,
    )
    keep("find the last update of a purchase", last)
    assert isinstance(last, models.ReadChangesResponse200)
    before = last.data[0].before
    assert isinstance(before, models.PurchaseState)
    assert before.quantity == 5
    keep("read a change", read_change.sync("1", client=client))
    assert isinstance(followed, models.ReadChangesResponse200)
    change = followed.data[0].change
    undone = undo_change.sync(change, client=client, idempotency_key="two")
    keep("undo a change", undone)
    keep("undo a change again", undo_change.sync(change, client=client))
    five = models.PurchaseChanges(quantity=5)
    changed = change_customer_purchase.sync(1, 2, client=client, body=five)
    keep("update a customer's purchase, by PATCH", changed)
    replaced = replace_customer_purchase.sync(1, 2, client=client, body=PRO)
    keep("update a customer's purchase, by PUT", replaced)


def delete_all(client: AuthenticatedClient) -> None:
    """Send what deletes."""
    # By a body: openapi-python-client 0.29.1 cannot leave out one of several kinds.
    some = models.Deletion(purchase_ids=[1, 9])
    deleted = delete_purchases.sync(1, client=client, body=some)
    keep("delete purchases 1 and 9", deleted)
    some = models.Deletion(delete_all=False, purchase_ids=[2, 3, 6])
    deleted = delete_purchases.sync(1, client=client, body=some)
    keep("delete purchases 2, 3 and 6", deleted)
    every = models.DeletionOfAll(delete_all=True)
    deleted = delete_purchases.sync(1, client=client, body=every)
    keep("delete all purchases", deleted)
    keep("read a purchase that is gone", read_purchase.sync(1, 2, client=client))
    hidden = erase_customer.sync_detailed(1, client=client)
    keep("delete customer", hidden.parsed)
    change = hidden.headers["Change"]
    undone = undo_change.sync(change, client=client)
    keep("undo the deletion of a customer", undone)
    keep("erase customer", erase_customer.sync(1, client=client, purge=True))
    late = undo_change.sync(change, client=client)
    keep("undo a change of a customer who was erased", late)


def import_rows(client: AuthenticatedClient) -> None:
    """Import a file, and count and sum up what it held."""
    for name, dry_run in (("import a file, dry", True), ("import a file", False)):
        file = types.File(payload=BytesIO(ROWS))
        keep(name, import_file.sync(client=client, body=file, dry_run=dry_run))
    by_day = summarize_purchases.sync(
        client=client, by=models.SummarizePurchasesBy.DAY, purchased_before="2020-01-01"
    )
    keep("sum up by day", by_day)
    counted = list_purchases.sync_detailed(
        client=client,
        order=models.ListPurchasesOrder.DESC,
        limit=1,
        prefer="count=exact",
    )
    seen["count"] = counted.headers["Total-Count"]


def ask_server(client: AuthenticatedClient) -> None:
    """Send what asks about the server itself."""
    keep("welcome", welcome.sync(client=client))
    keep("livez", livez.sync(client=client))
    keep("readyz", readyz.sync(client=client))
    keep("metrics", metrics.sync(client=client))
    keep("docs", docs.sync(client=client))
    described = description.sync(client=client)
    assert isinstance(described, models.DescriptionResponse200)
    seen["description"] = described["openapi"]
    style = models.DocsAssetAsset("index.css")
    keep("style of the page", docs_asset.sync(style, client=client))
    keep("console", console.sync(client=client))
    script = models.ConsoleFileFile("app.js")
    keep("script of the console", console_file.sync(script, client=client))
    keep("caller", read_caller.sync(client=client))


def main() -> None:
    """Send all requests and write the replies as JSON."""
    url, token = sys.argv[1:]
    client = AuthenticatedClient(base_url=url, token=token)
    for part in (change_all, change_customers, delete_all, import_rows, ask_server):
        part(client)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
