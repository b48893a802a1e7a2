"""Build scripts/tutorial.ipynb from scripts/tutorial.py: run every cell, and keep outputs and pictures.

    pip install '.[tutorial]' 'jupytext>=1.16'
    python scripts/build_tutorial.py

It takes a few minutes on one core. A test compares the cells of both files, so build again after each change.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common.command_line import Parser

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the cells in a new kernel, in this folder."""
    Parser(__doc__).parse_args()

    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = jupytext.read(HERE / "tutorial.py")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    os.environ["PYTHONWARNINGS"] = "ignore"  # they show paths of this machine
    place = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=3600, coalesce_streams=True, resources=place).execute()
    for number, cell in enumerate(notebook.cells):  # nothing that differs between two builds
        cell.id, cell.metadata = f"cell-{number}", {}
    nbformat.write(notebook, HERE / "tutorial.ipynb")


if __name__ == "__main__":
    main()
