"""`distill`: train a student from labelled texts and a teacher, given settings or dataclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.source import join_splits
from ...hub.model_folder import FinishedFolder
from ...tasks import get_task
from ...utils.errors import UserError
from ...utils.process_state import one_at_a_time
from ..arguments.distillation_arguments import DistillationArguments
from ..arguments.run_arguments import Arguments, ModelArguments, parse_settings_with
from ..arguments.text_arguments import DataArguments
from ..arguments.training_arguments import RnnTrainingArguments
from ..checks import check_early
from ..output_dir import check_apart
from ..train import TrainingResult, run_training
from .run import Distillation


@one_at_a_time()
def distill(
    model_args: ModelArguments | None = None,
    data_args: DataArguments | None = None,
    training_args: RnnTrainingArguments | None = None,
    distillation_args: DistillationArguments | None = None,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    **settings: Any,
) -> TrainingResult:
    """Train a classifier from labels and the logits of a teacher, and save a finished folder.

    This is [`~hf_rnn.train`] with a teacher: each training row has the teacher's logits beside its label, and only the
    teacher labels further texts. The loss is [`~hf_rnn.training.distillation.run.distillation_loss`]; scores are on
    true labels.

    Args:
        model_args: Architecture of the student.
        data_args: Data and tokenizer of the student. A new tokenizer also learns words from the unlabelled texts.
        training_args: Training and output folder.
        distillation_args: The teacher and its use.
        train: Training rows in memory, as for [`~hf_rnn.train`].
        validation: Validation rows in memory.
        test: Test rows in memory.
        settings: In place of the four dataclasses: settings by the names of the command's flags, on top of the recipe
            `recipe`.

    Raises:
        UserError: For a mistake in settings, data or teacher. An earlier model in the folder is left as it was.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> result = distill(teacher="runs/minilm", data_dir="data/tweets", unlabeled="tweets.txt", output_dir="out")
        >>> result.metrics["teacher"]["results"]["validation"]["agreement"]
    """
    data = join_splits(train, validation, test)
    parts = (model_args, data_args, training_args, distillation_args)
    if settings:
        if any(part is not None for part in parts):
            raise TypeError(
                f"distill takes four dataclasses or settings by name, not both: found {', '.join(settings)}"
            )
        arguments, further = parse_settings_with(DistillationArguments, settings, "distill")
    elif model_args is None or data_args is None or training_args is None or distillation_args is None:
        raise TypeError("distill takes four dataclasses, or settings by name: teacher=..., data_dir=...")
    else:
        arguments, further = Arguments(model_args, data_args, training_args), distillation_args
    if arguments.data.streaming:
        raise UserError("streaming does not keep rows, and a teacher labels each row once: leave it out")
    if get_task(arguments.data.task).per_token:
        raise UserError(f"distill learns labels of whole texts: found the task {arguments.data.task}; use train")
    further.check()
    if data is None:
        arguments.data.check_source()
    check_early(arguments)  # before a download of the teacher
    folder = FinishedFolder(Path(str(arguments.training.output_dir)))
    check_apart(folder, {name: getattr(further, name) for name in ("teacher", "unlabeled")})
    return run_training(arguments, Distillation(arguments, further), data=data)
