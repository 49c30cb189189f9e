"""Times as clients write them, and as the tables hold them."""

import re
from datetime import datetime, timedelta

from api.schemas import MONTHS

EXAMPLE = "2022-04-09T12:43:22Z"
DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIME_OF_DAY = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
DATE_TIME = re.compile(
    rf"({DATE.pattern})[Tt ]({TIME_OF_DAY})(?:\.([0-9]+))?"
    "([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
"""A date-time of RFC 3339, section 5.6, with the space that its note allows."""
WITHOUT_ZONE = re.compile(rf"{DATE.pattern}[Tt ]{TIME_OF_DAY}(?:\.[0-9]+)?\s*")
AMBIGUOUS = re.compile(r"\s*[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2,4}\b")
SHORT_TIME = re.compile(rf"([A-Z][a-z]{{2}}) ([0-9]{{2}}) ([0-9]{{4}}) ({TIME_OF_DAY})")
MONTH_NUMBERS = {name: month for month, name in MONTHS.items()}
FIRST, END = "0001-01-02", "9999-12-31"
"""The driver of PostgreSQL takes times near the ends of the calendar for infinity."""
NO_SUCH_TIME = "There is no such date, or no such time of day."


def parse_time(text: str, with_date: bool = False) -> str:
    """Return a time of RFC 3339 as `2022-04-09 12:43:22.237526+00:00`.

    Digits after the sixth of a second are cut off. `with_date` takes `2022-04-09` too,
    for its midnight in UTC. ValueError with a sentence that tells what to write.
    """
    if found := DATE_TIME.fullmatch(text):
        date, time_of_day, fraction, zone = found.groups()
        return _stored(date, time_of_day, fraction or "", zone)
    if with_date and DATE.fullmatch(text):
        return _stored(text, "00:00:00")
    raise ValueError(_explain(text, with_date))


def parse_short_time(text: str) -> str:
    """Return `Apr 09 2022 12:43:17`, which is UTC, as `parse_time` does. ValueError."""
    found = SHORT_TIME.fullmatch(text)
    if found is None or found[1] not in MONTH_NUMBERS:
        raise ValueError(f"Expected a time such as Apr 09 2022 12:43:17, or {EXAMPLE}.")
    month, day, year, time_of_day = found.groups()
    return _stored(f"{year}-{MONTH_NUMBERS[month]}-{day}", time_of_day)


def is_later(stored: str, now: str) -> bool:
    """Return whether a time is later than another; both as the tables hold them."""
    return stored > now  # both have as many digits


def _stored(date: str, time_of_day: str, fraction: str = "", zone: str = "Z") -> str:
    if time_of_day.endswith("60"):
        raise ValueError("A leap second cannot be stored: write second 59.")
    stored = f"{date} {time_of_day}.{fraction[:6]:0<6}+00:00"
    try:
        local = datetime.fromisoformat(stored)
    except ValueError:
        raise ValueError(NO_SUCH_TIME) from None
    if time_of_day >= "24":  # which newer versions of Python take for the next day
        raise ValueError(NO_SUCH_TIME)
    if zone not in ("Z", "z"):
        try:
            stored = (local - _offset(zone)).isoformat(" ", "microseconds")
        except OverflowError:
            stored = END
    if not FIRST <= stored < END:
        raise ValueError("Expected a time from 0001-01-02 to 9999-12-30 in UTC.")
    return stored


def _offset(zone: str) -> timedelta:
    hours, minutes = zone[1:3], zone[4:]
    if hours > "23" or minutes > "59":
        raise ValueError("Expected an offset from UTC of at most 23:59.")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return -offset if zone.startswith("-") else offset


def _explain(text: str, with_date: bool) -> str:
    """Return what is wrong with a text that is no time."""
    if AMBIGUOUS.match(text[:100]):
        return "Such a date can be read in two ways: write it as 2022-04-09."
    if WITHOUT_ZONE.fullmatch(text[:1000]):
        return "It has no time zone: end it with Z for UTC, or with one such as +02:00."
    if with_date:
        return f"Expected a time such as {EXAMPLE}, or a date such as 2022-04-09."
    if DATE.fullmatch(text[:1000]):
        return f"Expected a time of day too: write it as {EXAMPLE}."
    return f"Expected a time such as {EXAMPLE}."
