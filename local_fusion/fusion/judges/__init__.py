"""Judges: how candidates are compared."""
