"""Settings, logs, metrics and worker processes."""
