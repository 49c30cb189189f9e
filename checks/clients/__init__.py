"""Clients that others' generators make from /openapi.json, used on all routes."""
