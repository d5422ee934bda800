"""How fast a recipe or a model is."""
