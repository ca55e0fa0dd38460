"""Asking a panel: who sits where, what each is shown, and how long it is waited for."""
