"""Copying into PostgreSQL."""

import importlib

import pytest


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_time_that_cannot_be_copied(year: str) -> None:
    """The driver would take it for infinity."""
    transfer = importlib.import_module("storage.transfer")
    with pytest.raises(ValueError, match=f"{year}.* is too far"):
        transfer._weigh("time", f"{year} 00:00:00.000000+00:00")
