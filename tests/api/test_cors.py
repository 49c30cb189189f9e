"""Cross-origin requests."""

import pytest

from api import listing
from tests.support import JOHN, PHONE, ApiClient, Opener, one_engine


@one_engine
async def test_cors(opened: Opener) -> None:
    api = await opened(cors_origins=("https://a.example",))
    for line, status in (
        ("GET /api/v1/customer", 200),
        ("GET /api/v1/customer/7", 404),
        ("OPTIONS /api/v1/customer", 204),
    ):
        reply = await api(line, None, status, Origin="https://a.example")
        assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "ETag" in reply.headers["Access-Control-Expose-Headers"]
        assert "Origin" in ",".join(reply.headers.getall("Vary"))
        for origin in ("https://b.example", "null"):
            reply = await api(line, None, status, Origin=origin)
            assert "Access-Control-Allow-Origin" not in reply.headers
    reply = await api(
        "OPTIONS /api/v1/purchase/1",
        None,
        204,
        Origin="https://a.example",
        Access_Control_Request_Method="PATCH",
    )
    assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
    assert "If-Match" in reply.headers["Access-Control-Allow-Headers"]


@one_engine
async def test_cors_of_a_stream(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS", 1)
    api = await opened(cors_origins=("https://a.example",))
    await api("POST /api/v1/customer", JOHN, 201)
    for _ in range(2):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    reply = await api("GET /api/v1/customer", Origin="https://a.example")
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert sorted(reply.headers.getall("Vary")) == ["Accept", "Origin"]


@one_engine
async def test_cors_is_off(api: ApiClient) -> None:
    reply = await api("GET /api/v1/customer", Origin="https://a.example")
    assert not [name for name in reply.headers if name.startswith("Access-Control")]
