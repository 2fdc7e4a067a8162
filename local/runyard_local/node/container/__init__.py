"""TODO: draw the flow of container."""
