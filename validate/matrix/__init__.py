"""The matrix: every precision on every provider, each cell in a process of its own."""
