"""Three PostgreSQL servers under Patroni that fail in turn."""
