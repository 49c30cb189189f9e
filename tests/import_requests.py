"""Sends files to import, for the tests of what becomes of them."""

from typing import Any

from tests.support import HOST, ApiClient, ClientReply

IMPORT = "POST /api/v1/imports"
HEADER = "customer_id,purchase_name,quantity\n"
PAIRS = "customer_name,customer_address,purchase_name,quantity\n"
PEOPLE = "customer_name,customer_address\n"
FILE = f"{PAIRS}Ada,Lane 1,Tea,2\nBob,,Tea,3\nAda,Lane 1,Ink,4\n".encode()
IDS = "customer_id,purchase_name,quantity,purchase_id\n"
HEAD = b"POST /api/v1/imports HTTP/1.1\r\n" + HOST
HEAD += b"Content-Type: application/jsonl\r\n"


async def send(
    api: ApiClient, content: str | bytes, status: int = 201, **headers: str
) -> ClientReply:
    """Import a file of CSV, unless the headers say else."""
    content = content.encode() if isinstance(content, str) else content
    fields = {"Content_Type": "text/csv"} | headers
    return await api(IMPORT, content, status, **fields)


async def everything(api: ApiClient) -> list[str]:
    """Return all that lists and the feed show, to see that nothing has changed."""
    paths = ("customers", "customer", "changes")
    return [(await api(f"GET /api/v1/{path}")).text for path in paths]


async def undo(api: ApiClient, change: object, status: int = 201) -> ClientReply:
    """Undo a change."""
    return await api(f"POST /api/v1/changes/{change}/undo", None, status)


def numbers(customers: int, purchases: int, change: str | None = None) -> Any:
    """Return the data of a reply."""
    return {"change": change, "customers": customers, "purchases": purchases}
