"""Recipes: how each precision is made from the fp32 graphs."""
