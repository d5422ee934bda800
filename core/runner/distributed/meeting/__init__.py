"""How machines find each other."""
