"""Which fold of a data set a text is in, and the file that says so of a folder of cross-fitted teachers.

Such a folder has `fold-1`, `fold-2`, ..., each an ordinary model that was fine-tuned on the training texts of all
other folds, so that each training text has a teacher that has not seen it. `folds.json` comes last: a folder without
it is not whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...data.audit import normalize_text
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError

FOLDS_FILE = "folds.json"
UNFINISHED_FILE = "unfinished.json"  # lies there while some teachers are still to come


def fold_of(text: str, folds: int) -> int:
    """Return the fold of a text, from 0 to `folds` - 1.

    It hangs on the text alone, so that duplicates (see [`normalize_text`]) lie in the same fold, whatever the data set
    and the order of its rows.
    """
    digest = hashlib.sha256(normalize_text(text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % folds


def fold_folder(folder: Path, fold: int) -> Path:
    """Return where the teacher is that has not seen the texts of a fold, counted from 0."""
    return folder / f"fold-{fold + 1}"


def write_folds(folder: Path, folds: int) -> None:
    """Write `folds.json`, once the teachers are there."""
    write_whole(folder / FOLDS_FILE, (json.dumps({"folds": folds}) + "\n").encode())


def read_folds(folder: Path) -> list[Path]:
    """Return the folders of cross-fitted teachers in the order of their folds; none for a folder of anything else.

    Raises:
        UserError: When `folds.json` cannot be read, or a teacher that it speaks of is not there, and for a folder
            whose teachers are not all made.
    """
    path = folder / FOLDS_FILE
    if not path.is_file() and (folder / UNFINISHED_FILE).is_file():
        raise UserError(
            f"some teachers in {folder} are still to come: repeat the command of finetune_teacher.py with --resume"
        )
    if not path.is_file():
        return []
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))["folds"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: make the teachers anew with finetune_teacher.py --folds") from error
    if type(folds) is not int or folds < 2:
        raise UserError(f"{path}: folds must be a number from 2, found {folds!r:.80}")
    found = []
    for fold in range(folds):
        found.append(fold_folder(folder, fold))
        if not found[-1].is_dir():
            raise UserError(f"{path} speaks of {folds} teachers, and there is no folder {found[-1]}")
    return found
