"""What queries return, and the errors that they raise."""

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Customer(NamedTuple):
    """A customer; `created_on` is UTC text as `now` writes it."""

    id: int
    name: str
    address: str | None
    created_on: str
    version: int


class Purchase(NamedTuple):
    """A purchase; `customer_id` is text because the API sends it so."""

    id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str
    version: int


class Page(NamedTuple):
    """Rows in the order of their ids, as a JSON array of objects."""

    size: int
    json: str
    after: int | None
    """The id that the next page comes after, None at the end."""
    cursor: int | None = None
    """The row of the history after which the feed goes on from this page."""


class Written(NamedTuple, Generic[T]):
    """The result of a write, and the number of its change; None if nothing changed."""

    result: T
    change: int | None


class Undone(NamedTuple):
    """A change that undid another, and how many rows it has."""

    change: int
    undoes: int
    rows: int


class Imported(NamedTuple):
    """What an import added; without a change, what it would add."""

    change: int | None
    customers: int
    purchases: int


class IdempotencyKey(NamedTuple):
    """An idempotency key in its scope, with what identifies the request."""

    caller: str
    method: str
    path: str
    key: str
    fingerprint: bytes


class StoredResponse(NamedTuple):
    """The first response to a request with an idempotency key."""

    status: int
    location: str
    etag: str
    body: bytes
    customer_id: int | None
    """Whose answer it is, None for one that tells of nobody."""
    change: int | None
    replayed: bool = False


class NotFoundError(Exception):
    """There is no such row: what it is and its id."""


class ErasedError(Exception):
    """What a request refers to was erased since."""


class PrunedError(Exception):
    """What a request refers to is older than what the history keeps."""


class StaleError(Exception):
    """Customers were changed since an import was prepared."""


class KeyReusedError(Exception):
    """The idempotency key came before with another request."""


class ConflictError(Exception):
    """A change cannot be undone now: the reason, and the rows that stand in the way.

    Each row comes as what it is, its id, and why.
    """
