"""The benchmark, run as `python -m bench`, and its peers."""
