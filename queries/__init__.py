"""The queries behind `db`: history, undo, the feed, erasure, idempotency keys."""
