"""A pooler in transaction mode between the servers and PostgreSQL."""
