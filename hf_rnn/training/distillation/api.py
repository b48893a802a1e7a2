"""A teacher and labelled texts → a finished folder: the entry, in settings or dataclasses, of a distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.source import join_splits
from ...hub.model_folder import FinishedFolder
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
    """Train a classifier from labelled texts and a teacher's answers, and leave a finished folder.

    It is [`~hf_rnn.train`] with a teacher: each training row has the teacher's logits beside its label, and there are
    further texts that only the teacher has labelled. The loss is [`distillation_loss`]; what is measured are true
    labels.

    Args:
        model_args: Architecture of the student.
        data_args: Texts and how they become the student's tokens. A tokenizer that is trained counts the words of the
            unlabelled texts too, not those of the changed copies.
        training_args: How to train, and where the finished folder goes (`output_dir`).
        distillation_args: Who teaches, and how.
        train: Training rows in memory, as for [`~hf_rnn.train`].
        validation: Validation rows beside `train`.
        test: Test rows beside `train`.
        settings: Instead of the four: settings by the names of the command's flags, on top of the recipe `recipe`.

    Raises:
        UserError: For a mistake in settings, data or teacher. Nothing of an earlier run is touched by then.
        TrainingStopped: When SIGTERM or Ctrl-C asked for it; a checkpoint to resume from is saved by then.

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
        raise UserError(
            "streaming reads rows anew in each epoch, and a teacher's answers are for rows that stay: leave it out"
        )
    further.check()
    if data is None:
        arguments.data.check_source()
    check_early(arguments)  # before a teacher is got from the Hub
    folder = FinishedFolder(Path(str(arguments.training.output_dir)))
    check_apart(folder, {name: getattr(further, name) for name in ("teacher", "unlabeled")})
    return run_training(arguments, Distillation(arguments, further), data=data)
