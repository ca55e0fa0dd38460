"""What will happen on a rig: the real scheduler and the real fusions on a virtual clock, over modelled engines."""
