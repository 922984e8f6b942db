"""The host side: what a run leaves behind, and what is read back from it.

Knows records and configurations, and neither training nor evaluation: programs join the
two.
"""
