"""Proofs that take longer than a test, each run as `python -m checks.NAME`."""
