"""Engines: their checkpoints, their processes, the single owner of each, and the client that speaks to them."""
