"""Slow clients, and the others beside them."""
