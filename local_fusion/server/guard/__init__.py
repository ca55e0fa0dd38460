"""Who may do what and how much of it, decided before any route is reached."""
