"""Members that judge each other: who is asked about whose answers, and what comes of it."""
