"""Statistics: error metrics and the bound on lost accuracy."""
