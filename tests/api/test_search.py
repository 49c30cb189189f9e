"""Search by a part of a name: any case, any Unicode normalisation."""

from typing import Any
from unicodedata import normalize
from urllib.parse import quote

import pytest

import db
from storage.schema import fold_name
from tests.support import ApiClient

RENE, COMPOSED = "Rene\u0301 \u1fb3", "Ren\u00e9 \u1fb3"
"""A name decomposed, and composed."""


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("Ren\u00e9", [1, 2]),
        ("rene\u0301", [1, 2]),
        ("N\u00c9", [1, 2]),
        ("\u0391\u0399", [1, 2]),  # the capital of U+1FB3 is two letters
        ("rene", []),  # a letter without the mark that it was written with
        ("\u0301", [3, 4]),  # a mark that is part of no composed letter
        ("x\u0301", [3]),
        ("\u1ea1\u0301", [4]),  # its two marks may come in either order
        ("a\u0301\u0323", [4]),
    ],
)
async def test_any_normalisation(api: ApiClient, part: str, found: list[int]) -> None:
    for name in (RENE, COMPOSED, "x\u0301", "a\u0323\u0301"):
        await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    reply = await api(f"GET /api/v1/customers?name={quote(part)}")
    assert [row["id"] for row in reply.data] == found


async def test_search_after_a_correction(api: ApiClient, customer: int) -> None:
    """What is stored and returned stays as it was sent."""
    reply = await api(f"PATCH /api/v1/customer/{customer}", {"name": RENE})
    assert reply.data["name"] == RENE
    path = f"GET /api/v1/customers?name={quote(COMPOSED.upper())}"
    assert [row["name"] for row in (await api(path)).data] == [RENE]


@pytest.mark.parametrize("indexed", [False, True])
async def test_any_length(api: ApiClient, engine: Any, indexed: bool) -> None:
    """A text that is too short for the index is found all the same."""
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 199)))
    people = ["Ann", "Ännchen %_\\", f"{long}Z", f"Z{long}"]
    for name in people:
        await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    if indexed:
        await engine.write(db.index_names)
    for part, found in (
        ("", [1, 2, 3, 4]),
        ("N", [1, 2]),
        ("nN", [1, 2]),
        ("ANN", [1]),
        ("nnc", [2]),
        ("%_", [2]),
        ("%_\\", [2]),
        ("%%%", []),
        (long, [3, 4]),
        (f"{long}z", [3]),
        (long[50:60], [3, 4]),
        (long[50:150] + long[50:150], []),
    ):
        reply = await api(f"GET /api/v1/customers?name={quote(part)}")
        assert [row["id"] for row in reply.data] == found, part
        assert await engine.scan(db.count_customers, part) == len(found)


def test_fold_name() -> None:
    """Texts that are the same to Unicode are folded to one text, which stays so."""
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for text in texts:
        folded = fold_name(text)
        assert fold_name(folded) == folded, ascii(text)
        for form in ("NFC", "NFD"):
            assert fold_name(normalize(form, text)) == folded, ascii(text)
