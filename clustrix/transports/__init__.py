"""How a command and a file reach a host."""
