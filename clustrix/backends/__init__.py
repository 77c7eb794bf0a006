"""What accepts a job."""
