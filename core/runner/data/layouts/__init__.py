"""How folders and lists of images become datasets."""
