"""Which engine goes on which devices: the problem, a greedy answer, CP-SAT's answer, and how any answer is scored."""
