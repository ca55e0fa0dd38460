"""Who is awake now, who is next, and when to swap: a pure policy, and the task that carries it out."""
