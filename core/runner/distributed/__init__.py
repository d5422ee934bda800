"""Several processes, devices and machines."""
