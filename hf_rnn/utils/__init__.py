"""Errors, atomic writes, CPU features and process state."""
