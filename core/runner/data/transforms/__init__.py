"""From a decoded image to the input of a network."""
