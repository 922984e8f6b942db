"""The two agents, and the one loss that trains both."""
