"""TODO: draw the flow of launch."""
