"""`python -m hf_rnn VERB`: the command where no folder of scripts is on the path."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
