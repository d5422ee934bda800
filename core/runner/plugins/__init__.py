"""Finding plugins, checking what they promise, and guarding what they return."""
