"""`hf-rnn demo`: serve a page to try a model on until Ctrl-C; print its URL."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.settings_rnn import setting
from ..settings.flags import Flags
from .console import INTERRUPTED, ModelFlags


@dataclass
class DemoArguments(ModelFlags):
    """Flags of this verb."""

    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 is open to other machines")
    port: int | None = setting(None, "port (default: the first free one from 7860)")


FLAGS = Flags(
    "demo", DemoArguments, "Try a model on a page in your browser.", "my-model", ("model",)
)


def run(argv: Sequence[str]) -> None:
    """Serve the page and print its URL."""
    arguments: DemoArguments = FLAGS.build(argv)
    arguments.check_model()
    from ..hub import model_folder
    from ..inference.demo import build, serve

    model_folder.quiet()
    page = build(arguments.model, arguments.revision)
    print(f"{serve(page, arguments.host, arguments.port)} (Ctrl-C ends it)", flush=True)
    try:
        while True:
            # not a lock: its wait continues when another thread receives the signal
            time.sleep(0.5)
    except KeyboardInterrupt:
        atexit._run_exitfuncs()  # removes temporary files
        os._exit(INTERRUPTED)  # at once, although a browser may be connected
