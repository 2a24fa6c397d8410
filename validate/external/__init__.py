"""External models: files that other tools exported, opened like an artifact."""
