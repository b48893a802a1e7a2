"""`hf-rnn demo`: a page to try a model on, served on this machine until Ctrl-C; prints its URL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hub import loading as model_loading
from ..inference.demo import build, serve
from ..training.arguments.parser import SettingsParser
from ..utils.errors import UserError
from .model_flags import ModelFlags


@dataclass
class DemoArguments(ModelFlags):
    """Flags of this verb."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 lets others in"})
    port: int | None = field(default=None, metadata={"help": "port; the first free one from 7860 if not given"})


def run(argv: Sequence[str]) -> None:
    """Serve the page and print where it is.

    Raises:
        UserError: For a mistake in flags or model, without Gradio, and for a port that is taken.
        KeyboardInterrupt: Ctrl-C, the way to end it.
    """
    (arguments,) = SettingsParser(DemoArguments, prog="hf-rnn demo").parse(argv)
    name = arguments.model_name()
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise UserError(f"--port must be from 1 to 65535, found {arguments.port}")
    model_loading.quiet()
    page = build(name, arguments.revision)
    print(f"{serve(page, arguments.host, arguments.port)} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
