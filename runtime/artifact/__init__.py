"""The artifact folder: its contract, its files, and the external data of its graphs."""
