"""`python -m hf_rnn VERB`: the command `hf-rnn`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
