"""What runs inside the container, and the formats it shares with the client. Standard library and cloudpickle only."""
