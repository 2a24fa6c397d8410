"""Checks: what is compared, group by group, from hashes to retrieval."""
