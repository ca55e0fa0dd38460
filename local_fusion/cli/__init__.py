"""The `local-fusion` command: one file for each command, rendering only."""
