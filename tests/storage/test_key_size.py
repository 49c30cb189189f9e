"""The bytes that an idempotency key takes, as the README has them."""

from pathlib import Path

import pytest

from checks import keys


@pytest.mark.parametrize(
    ("add", "days", "most"),
    [
        (keys.add_typical, 1, keys.TYPICAL_BYTES),
        (keys.add_typical, keys.DAYS, keys.TYPICAL_BYTES),
        (keys.add_longest, 1, keys.LONGEST_BYTES),
    ],
)
def test_bytes_of_a_key(tmp_path: Path, add: keys.Add, days: int, most: int) -> None:
    assert keys.bytes_of_a_key(tmp_path, add, 1500, days) <= most
