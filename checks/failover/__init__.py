"""PostgreSQL servers that fail, with a standby and without."""
