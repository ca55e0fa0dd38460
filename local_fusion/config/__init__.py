"""Configuration: the schema names every option once; loading turns YAML into a frozen, cross-checked `Config`."""
