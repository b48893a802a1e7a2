"""Labels for texts: a queue to label them, labels that look wrong, and two months compared."""
