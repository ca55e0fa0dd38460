"""What a checkpoint is: its weights, its attention layers, how far it can be split. Pure."""
