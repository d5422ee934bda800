"""The logs that a recipe can ask for beside ``events.jsonl``, as a plugin like any other."""
