"""Checks of a candidate against a reference, group by group, from file hashes to retrieval."""
