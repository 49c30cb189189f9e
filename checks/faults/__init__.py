"""Faults of the disk, the file, the clients and the operator."""
