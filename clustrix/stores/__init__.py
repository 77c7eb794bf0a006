"""Where a payload waits and an outcome is found."""
