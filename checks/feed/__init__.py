"""Follow the feed while many write, and look for what it left out."""
