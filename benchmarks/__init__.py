"""Throughput of the compiled program."""
