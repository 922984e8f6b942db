"""How many runs become one job."""
