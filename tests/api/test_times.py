"""Times as clients write them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from api.schemas import short_time
from api.times import is_later, parse_short_time, parse_time

AMBIGUOUS = "Such a date can be read in two ways: write it as 2022-04-09."
NO_ZONE = "It has no time zone: end it with Z for UTC, or with one such as +02:00."
NO_SUCH = "There is no such date, or no such time of day."
RANGE = "Expected a time from 0001-01-02 to 9999-12-30 in UTC."
EXPECTED = "Expected a time such as 2022-04-09T12:43:22Z"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2022-04-09T12:43:22.237526Z", "2022-04-09 12:43:22.237526+00:00"),
        ("2022-04-09 12:43:22.237526+00:00", "2022-04-09 12:43:22.237526+00:00"),
        ("2022-04-09t12:43:22z", "2022-04-09 12:43:22.000000+00:00"),
        ("2022-04-09T12:43:22-00:00", "2022-04-09 12:43:22.000000+00:00"),
        ("2022-04-09T12:43:22.5Z", "2022-04-09 12:43:22.500000+00:00"),
        ("2022-04-09T12:43:22.9999999999Z", "2022-04-09 12:43:22.999999+00:00"),
        ("2022-12-31T23:30:00.000001-01:30", "2023-01-01 01:00:00.000001+00:00"),
        ("2022-01-01T00:00:00+23:59", "2021-12-31 00:01:00.000000+00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29 00:00:00.000000+00:00"),
        ("0001-01-02T00:00:00Z", "0001-01-02 00:00:00.000000+00:00"),
        ("0001-01-01T23:59:00-00:01", "0001-01-02 00:00:00.000000+00:00"),
        ("9999-12-30T23:59:59.999999Z", "9999-12-30 23:59:59.999999+00:00"),
    ],
)
def test_time(text: str, stored: str) -> None:
    assert parse_time(text) == parse_time(text, with_date=True) == stored


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("04/09/2022", AMBIGUOUS),
        ("9.4.2022", AMBIGUOUS),
        (" 9-4-22 12:00", AMBIGUOUS),
        ("2022-04-09T12:43:22", NO_ZONE),
        ("2022-04-09 12:43:22.5 ", NO_ZONE),
        ("2022-02-29T00:00:00Z", NO_SUCH),
        ("2022-13-01T00:00:00Z", NO_SUCH),
        ("0000-01-01T00:00:00Z", NO_SUCH),
        ("2022-04-09T24:00:00Z", NO_SUCH),
        ("2022-04-09T12:60:00Z", NO_SUCH),
        ("2016-12-31T23:59:60Z", "A leap second cannot be stored: write second 59."),
        ("2022-04-09T12:43:22+24:00", "Expected an offset from UTC of at most 23:59."),
        ("2022-04-09T12:43:22+00:60", "Expected an offset from UTC of at most 23:59."),
        ("0001-01-01T23:59:59Z", RANGE),
        ("0001-01-01T00:00:00+01:00", RANGE),
        ("9999-12-31T00:00:00Z", RANGE),
        ("9999-12-31T23:59:59-23:59", RANGE),
        ("", f"{EXPECTED}."),
        ("2022-04-09T12:43Z", f"{EXPECTED}."),
        ("2022-04-09T12:43:22+0200", f"{EXPECTED}."),
        ("2022-04-09T12:43:22.Z", f"{EXPECTED}."),
        ("2022-04-09T12:43:22,5Z", f"{EXPECTED}."),
        ("2022-W14-6T12:43:22Z", f"{EXPECTED}."),
        ("٢٠٢٢-04-09T12:43:22Z", f"{EXPECTED}."),
        ("2022-04-09T12:43:22Z\n", f"{EXPECTED}."),
        ("2022-04-09", "Expected a time of day too: write it as 2022-04-09T12:43:22Z."),
    ],
)
def test_no_time(text: str, detail: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(detail)}$"):
        parse_time(text)


def test_date() -> None:
    assert parse_time("2022-04-09", with_date=True) == (
        "2022-04-09 00:00:00.000000+00:00"
    )
    for text, detail in (
        ("2022-02-30", NO_SUCH),
        ("9999-12-31", RANGE),
        ("today", f"{EXPECTED}, or a date such as 2022-04-09."),
    ):
        with pytest.raises(ValueError, match=detail):
            parse_time(text, with_date=True)


@given(
    st.datetimes(datetime(1, 1, 4), datetime(9999, 12, 28)), st.integers(-1439, 1439)
)
def test_every_time(local: datetime, minutes: int) -> None:
    """What Python writes is read as the same moment, and orders as moments do."""
    aware = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    stored = parse_time(aware.isoformat())
    assert datetime.fromisoformat(stored) == aware
    assert stored == aware.astimezone(UTC).isoformat(" ", "microseconds")
    assert parse_time(stored) == stored
    text = parse_short_time(short_time(stored))
    assert text == f"{stored[:19]}.000000+00:00"
    assert is_later(stored, text) == (local.microsecond > 0)


@given(st.text(st.sampled_from("0129-:T.Z+ /\u0662\n"), max_size=30))
def test_any_text(text: str) -> None:
    """It is no time, or the date that it begins with or is a few hours from."""
    with suppress(ValueError):
        stored = parse_time(text, with_date=True)
        assert len(stored) == len("2022-04-09 12:43:22.237526+00:00")
        day = datetime.fromisoformat(text[:10]).replace(tzinfo=UTC)
        assert abs(datetime.fromisoformat(stored) - day) < timedelta(days=2)


@pytest.mark.parametrize(
    "text", ["", "apr 09 2022 12:43:17", "Abc 09 2022 12:43:17", "Apr 9 2022 12:43:17"]
)
def test_no_short_time(text: str) -> None:
    with pytest.raises(ValueError, match="Expected a time such as Apr 09 2022"):
        parse_short_time(text)


def test_short_time_of_no_date() -> None:
    with pytest.raises(ValueError, match="no such date"):
        parse_short_time("Feb 30 2022 12:43:17")
