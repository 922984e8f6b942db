"""The world that both agents live in: episodes, exit rule, rewards."""
