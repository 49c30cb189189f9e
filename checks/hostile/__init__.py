"""Hostile input, one request at a time and in floods."""
