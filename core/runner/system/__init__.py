"""What the operating system and the interpreter allow."""
