"""What every node of a job must have in order, looked at before the expensive part starts."""
