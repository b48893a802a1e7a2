"""The `hf-rnn` command: one file per verb, with parsing and printing only."""
