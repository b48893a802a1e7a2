"""The settings of a distillation: who teaches, from which texts, and how much its answers count. Only their checks."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ...utils.errors import UserError
from .parser import expand_home, setting


@dataclass
class DistillationArguments:
    """A teacher and what is learned from it; see [`hf_rnn.training.distillation`].

    Args:
        teacher (`str`): A sequence-classification model of transformers, one of this package among them: its folder or
            its id on the Hub, or a folder of cross-fitted ones as `scripts/finetune_teacher.py --folds` makes it. No
            code of a repo is run, and weights are read from safetensors only. With the setting `bf16` it multiplies in
            bfloat16 too, as the student does.
        teacher_labels (`list[str]`, *optional*): Names of the teacher's classes, in the order of its ids, where its
            own are not those of the data (`LABEL_0`, `LABEL_1`, ... say nothing).
        unlabeled (`str`, *optional*): A file with one text a line, which the teacher labels too.
        augmentations (`int`): Changed copies of each training text that the teacher labels; 0 makes none. See
            [`~hf_rnn.training.distillation.augmentation.augment`].
        mask_probability (`float`): Of a word of a copy to be hidden.
        ngram_probability (`float`): Of a copy to be cut down to some of its words that follow each other.
        augmentation_seed (`int`): Of the copies. It is not the run's own, so that runs of several seeds share a
            teacher's answers.
        temperature (`float`): Divides the logits of teacher and student before they are compared: above 1 the small
            probabilities count more. Customary values are 1 to 5; none was tuned here.
        soft_label_weight (`float`): From 0, where only true labels count, to 1, where only the teacher's answers do.
        teacher_max_length (`int`, *optional*): Tokens of a text that the teacher reads; by default as many as it can.
        teacher_batch_size (`int`): Texts that it reads at once.
        teacher_cache (`str`, *optional*): Folder that keeps its answers, for several runs to share; by default
            `teacher_cache` in `output_dir`.

    Raises:
        UserError: For a value out of its range.
    """

    _argument_group_name = "distillation"

    teacher: str | None = setting(
        None, "model to learn from: any sequence classifier of transformers (folder, Hub id), or a folder of folds"
    )
    teacher_labels: list[str] | None = setting(
        None, "names of the teacher's classes in the order of its ids, where its own are not those of the data"
    )
    unlabeled: str | None = setting(None, "file with one text a line, for the teacher to label")
    augmentations: int = setting(1, "changed copies of each training text, for the teacher to label")
    mask_probability: float = setting(0.1, "share of the words of such a copy that are hidden")
    ngram_probability: float = setting(0.25, "share of such copies that are cut to one to five words")
    augmentation_seed: int = setting(0, "of the copies, which do not change with the run's own seed")
    temperature: float = setting(2.0, "divides the logits before they are compared; above 1 softens them")
    soft_label_weight: float = setting(0.9, "weight of the teacher's answers; the rest is that of the true labels")
    teacher_max_length: int | None = setting(None, "tokens of a text that the teacher reads (default: what it can)")
    teacher_batch_size: int = setting(32, "texts that the teacher reads at once")
    teacher_cache: str | None = setting(None, "folder of the teacher's answers (default: below output_dir)")

    def __post_init__(self) -> None:
        """Check what can be checked without the teacher."""
        expand_home(self, "teacher", "unlabeled", "teacher_cache")
        if not 0.01 <= self.temperature <= 100:  # beyond, float32 loses what the logits say
            raise UserError(f"temperature must be from 0.01 to 100, found {self.temperature}: 1 to 5 are customary")
        for name in ("soft_label_weight", "mask_probability", "ngram_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        for name, least in (("augmentations", 0), ("teacher_batch_size", 1), ("teacher_max_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, found {value}")

    def check(self) -> None:
        """Make sure that a teacher is named, and that the files that are named can be what they should.

        Raises:
            UserError: When not.
        """
        if self.teacher is None:
            raise UserError("teacher is not set: give the folder of a sequence classifier, or its id on the Hub")
        for name, what in (("unlabeled", "file"), ("teacher_cache", "folder")):
            if getattr(self, name) == "":
                raise UserError(f"{name} is empty: give a {what}, or leave it out")
        if self.unlabeled is not None:
            if Path(self.unlabeled).is_dir():
                raise UserError(f"unlabeled {self.unlabeled} is a folder: give a file with one text a line")
            if not Path(self.unlabeled).exists():
                raise UserError(f"unlabeled: there is no file {self.unlabeled}: give a file with one text a line")
        if self.teacher_cache is not None and os.path.isfile(self.teacher_cache):
            raise UserError(f"teacher_cache {self.teacher_cache} is a file: give a folder")
        if self.teacher_cache is not None and os.path.isfile(os.path.join(self.teacher_cache, "config.json")):
            raise UserError(
                f"teacher_cache {self.teacher_cache} holds a model, of which the answers would become a part: give "
                "another folder"
            )


def is_of_distill(name: str) -> bool:
    """Whether a setting is one that `hf-rnn distill` takes and `hf-rnn train` does not."""
    return name in {setting.name for setting in fields(DistillationArguments)}
