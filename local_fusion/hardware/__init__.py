"""Devices as facts: what memory there is and how much of it is free, before anyone decides anything."""
