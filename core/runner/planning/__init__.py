"""From a recipe to everything that can be decided before a framework is imported."""
