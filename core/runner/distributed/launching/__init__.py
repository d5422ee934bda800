"""Starting one process for each device."""
