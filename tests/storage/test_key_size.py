"""The bytes that an idempotency key takes, as the README has them."""

from pathlib import Path

import pytest

from checks import keys


@pytest.mark.parametrize(
    ("add", "most"),
    [(keys.add_typical, keys.TYPICAL_BYTES), (keys.add_longest, keys.LONGEST_BYTES)],
)
def test_bytes_of_a_key(tmp_path: Path, add: keys.Add, most: int) -> None:
    assert keys.bytes_of_a_key(tmp_path, add, 1000) <= most
