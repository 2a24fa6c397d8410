"""Search for the sites to leave at higher precision."""
