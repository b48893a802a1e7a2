"""Errors, checks of texts, atomic writes, CPU features and process state."""
