"""Errors, checks of texts, atomic writes, imports and process state."""
