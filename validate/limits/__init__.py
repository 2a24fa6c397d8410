"""Limits: the defaults of each precision, and the TOML file that overrides them."""
