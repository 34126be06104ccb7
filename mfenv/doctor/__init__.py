"""What is installed and found on a machine, and what to do about what is missing."""
