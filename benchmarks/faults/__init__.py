"""What must not happen when something goes wrong: ``mfenv bench faults``, a row for each fault."""
