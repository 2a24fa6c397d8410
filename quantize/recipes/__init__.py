"""Recipes: one module for each precision, and the graph rewrites that they use."""
