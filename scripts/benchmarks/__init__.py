"""Benchmarks: what local-fusion costs on top of its engine, how fast it starts, and what its plans are worth."""
