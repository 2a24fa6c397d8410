"""Matrix of cells: every precision on every provider, each cell in its own process."""
