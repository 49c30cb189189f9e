"""The database engines; knows nothing of HTTP."""
