"""Inference engines: what loads and runs a graph, on which provider, with which options."""
