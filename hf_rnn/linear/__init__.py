"""Linear models of texts: the part beside a network, and the baseline of cards."""
