"""Search by a part of a name: any case, any Unicode normalisation."""

from unicodedata import normalize
from urllib.parse import quote

import pytest

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


def test_fold_name() -> None:
    """Texts that are the same to Unicode are folded to one text, which stays so."""
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for text in texts:
        folded = fold_name(text)
        assert fold_name(folded) == folded, ascii(text)
        for form in ("NFC", "NFD"):
            assert fold_name(normalize(form, text)) == folded, ascii(text)
