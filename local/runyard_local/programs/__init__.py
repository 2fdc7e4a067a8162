"""TODO: draw the flow of programs."""
