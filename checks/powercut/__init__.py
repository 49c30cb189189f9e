"""Cut the power of a recorded server at any moment, and look what its disk holds."""
