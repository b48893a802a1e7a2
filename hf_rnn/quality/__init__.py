"""The quality of data: repeats, leaks, labels that look wrong, and two months compared."""
