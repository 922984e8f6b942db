"""The trained recommender against the true feedback."""
