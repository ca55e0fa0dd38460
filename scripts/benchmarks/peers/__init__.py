"""Other programs that fuse, each run by the Python of its own environment."""
