"""Compile the kernel in its folder: `python -m hf_rnn.inference.kernel [COMPILER OPTION ...]`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import FOLDER


def build(target: Path = FOLDER / "_kernel.so", options: tuple[str, ...] = ()) -> Path:
    """Compile to a shared library by the compiler `cc`, or that of the variable CC."""
    compiler = os.environ.get("CC", "cc")
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [
        compiler,
        "-O3",
        "-shared",
        "-fPIC",
        *options,
        str(FOLDER / "kernel.c"),
        "-o",
        str(unfinished),
        "-lm",
    ]
    subprocess.run(command, check=True)
    return unfinished.replace(target)


if __name__ == "__main__":
    print(build(options=tuple(sys.argv[1:])))  # noqa: T201 - a command
