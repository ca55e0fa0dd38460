"""Benchmarks on real vLLM: what local-fusion costs on top of its engine, and how fast it starts."""
