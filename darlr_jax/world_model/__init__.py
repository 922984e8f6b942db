"""Logged feedback -> predicted reward, its variance, and embeddings."""
