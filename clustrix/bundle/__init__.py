"""What travels so that any image can run a job: the worker, and the caller's own modules."""
