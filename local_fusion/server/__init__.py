"""The HTTP endpoint: thin dialects over one core."""
