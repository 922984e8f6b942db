"""The compiled training epoch: roll out, shape rewards, update both agents."""
