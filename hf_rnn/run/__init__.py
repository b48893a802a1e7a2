"""The steps of a training run, each in a file of its own; [`hf_rnn.training`] says in which order they are taken."""
