"""Cross-origin requests from the pages of the origins that CORS_ORIGINS names."""

from collections.abc import Mapping

EXPOSED_HEADERS = (
    "Age, Change, Content-Location, Deprecation, ETag, Feed-Cursor, "
    "Idempotency-Replayed, Link, Location, Preference-Applied, Retry-After, "
    "Total-Count, WWW-Authenticate, X-Request-Id"
)
ALLOWED_HEADERS = (
    "Authorization, Change, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "Last-Event-ID, Prefer, X-Request-Id"
)


class Cors:
    """Adds the headers that let a page of an allowed origin read a response.

    See fetch.spec.whatwg.org/#http-cors-protocol.
    """

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        self.origins = frozenset(origins)

    def headers(self, sent: Mapping[str, str], method: str = "") -> Mapping[str, str]:
        """Return the headers for the response to a request with some headers."""
        origin = sent.get("Origin")
        if origin not in self.origins:
            return {"Vary": "Origin"} if self.origins else {}
        headers = {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            "Vary": "Origin",
        }
        if method == "OPTIONS" and "Access-Control-Request-Method" in sent:
            headers |= {
                "Access-Control-Allow-Methods": "DELETE, GET, HEAD, PATCH, POST, PUT",
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            }
        return headers
