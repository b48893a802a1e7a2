"""Settings of a distillation: the teacher, its texts, and the weight of its answers."""

import os
from dataclasses import dataclass

from ...utils.errors import UserError
from .parser import expand_home, setting


@dataclass
class DistillationArguments:
    """A teacher and its use; see [`hf_rnn.training.distillation`]. The help of each field describes it.

    The teacher's code is never run, and its weights are read from safetensors only. With the setting `bf16` it
    computes in bfloat16, as the student does.
    """

    _argument_group_name = "distillation"

    teacher: str | None = setting(
        None,
        "teacher: a sequence classifier of transformers, as a folder or Hub id; or a folder of cross-fitted ones from "
        "scripts/finetune_teacher.py --folds",
        required=True,
    )
    teacher_labels: list[str] | None = setting(
        None, "names of the teacher's classes in the order of its ids, if its own are not those of the data"
    )
    unlabeled: str | None = setting(
        None, "texts for the teacher to label: a file with one per line, or a table, plain, .gz or .zst", common=True
    )
    augmentations: int = setting(1, "modified copies of each training text, for the teacher to label", least=0)
    temperature: float = setting(
        2.0,
        "divides the logits before they are compared; values above 1 soften them, 1 to 5 are customary",
        least=0.01,
        most=100,
    )
    soft_label_weight: float = setting(
        0.9, "weight of the teacher's answers; the true labels have the rest", common=True, least=0, most=1
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    teacher_batch_size: int = setting(32, "texts per batch of the teacher", least=1)
    teacher_cache: str | None = setting(
        None, "folder for the teacher's answers (default: below output_dir)", recorded=False
    )

    def __post_init__(self) -> None:
        """Check values that need no teacher."""
        expand_home(self, "teacher", "unlabeled", "teacher_cache")

    def check(self) -> None:
        """Raise a [`UserError`] unless a teacher is given and the texts exist."""
        if self.teacher is None:
            raise UserError("teacher is not set: give the folder of a sequence classifier, or its id on the Hub")
        if self.unlabeled is not None and not os.path.exists(self.unlabeled):
            raise UserError(f"unlabeled: there is no file {self.unlabeled}: give a file with one text per line")
