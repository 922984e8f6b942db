"""Floors, ceilings and bandits: policies that no simulated user trains."""
