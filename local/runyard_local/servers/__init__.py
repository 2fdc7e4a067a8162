"""TODO: draw the flow of servers."""
