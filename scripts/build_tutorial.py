"""Build the notebooks of the course from the lessons: run the cells, keep their outputs.

    pip install '.[tutorial]' 'jupytext>=1.16'
    python scripts/build_tutorial.py

It takes some minutes on one core. A test compares the cells of script and notebook, so build again
after each change.
"""

import argparse
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("lesson_[1-5]_*.py"))


def build(name: str) -> None:
    """Run the cells of a script in a new kernel, in this folder, and write the notebook."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = jupytext.read(HERE / f"{name}.py")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    os.environ["PYTHONWARNINGS"] = "ignore"  # they show paths of this machine
    place = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=3600, coalesce_streams=True, resources=place).execute()
    for number, cell in enumerate(notebook.cells):  # nothing that differs between two builds
        cell.id = f"cell-{number}"
        cell.metadata = {}
    nbformat.write(notebook, HERE / f"{name}.ipynb")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", nargs="*", choices=[[], *NAMES], default=[], help="a lesson (default: all)"
    )
    for chosen in parser.parse_args().name or NAMES:
        build(chosen)
