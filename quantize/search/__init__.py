"""Search for the sites that must keep a higher precision."""
