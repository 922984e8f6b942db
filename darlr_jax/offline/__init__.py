"""Learners that see the log and nothing else: SQN, BCQ, CQL and CRR (protocol 8)."""
