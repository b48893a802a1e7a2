"""The `hf-rnn` command: one file a verb, parsing and printing only."""
