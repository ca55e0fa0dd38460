"""Anthropic's dialect: messages of fusions and engines, as Claude Code and Anthropic's own clients ask for them."""
