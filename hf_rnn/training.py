"""The junction: labelled texts, tokenizer, model and metrics meet in the Trainer, and a finished folder comes out.

Nothing is computed here that another module could; this is the order in which they are called.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerBase, TrainerCallback, set_seed

from . import checkpoints, output_dir
from .arguments import Arguments, ModelArguments, parse_settings
from .card_facts import CardFacts
from .configuration_rnn import RnnConfig
from .containment import library_bars_off
from .data import DataReport, encode
from .errors import UserError
from .evaluation import evaluate_logits
from .fingerprints import compare, take_fingerprints
from .finishing import write_files
from .folder import FinishedFolder, nested_model
from .gathering import gather_facts
from .inference import check_name
from .metrics import classification_metrics
from .modeling_rnn import RnnForSequenceClassification
from .processor import multiplies_bfloat16
from .recipes import recipe_names
from .run_audit import audit_run
from .run_calibration import calibrate_run, check_calibration
from .run_push import find_destination, push_run
from .run_vectors import prepare_vectors, put_vectors
from .settings_record import describe_settings
from .sparse_gradients import check_sparse_gradients
from .starting_model import StartingModel
from .stopping import TrainingStopped
from .streams import CountedStream
from .text_arguments import DataArguments
from .text_loading import load_texts
from .tokenization import count_ids, train_tokenizer
from .trainer import RnnTrainer
from .trainer_settings import check_trainer_settings
from .training_arguments import RnnTrainingArguments

if TYPE_CHECKING:
    from .distillation.run import Distillation

logger = logging.getLogger(__name__)

# What can decide which epoch is the best one.
_SCORES = ("loss", "accuracy", "macro_f1", "macro_recall")


@dataclass(frozen=True)
class TrainingResult:
    """What a training run leaves.

    Attributes:
        folder: The finished folder.
        metrics: What its `metrics.json` holds: `validation` and, if there is one, `test`, each as
            [`evaluate_logits`] has them, and `training` with the run's own numbers.
        card: What its card says; None in a process that does not write it.
        url: Its page on the Hub, when `push_to_hub` asked for one.
    """

    folder: Path
    metrics: dict[str, Any]
    card: CardFacts | None = None
    url: str | None = None


def train(
    model_args: ModelArguments | None = None,
    data_args: DataArguments | None = None,
    training_args: RnnTrainingArguments | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a classifier from labelled texts and leave a finished folder.

    Args:
        model_args: Architecture.
        data_args: Texts and how they become tokens.
        training_args: How to train, and where the finished folder goes (`output_dir`).
        settings: Instead of the three: settings by the names of the command's flags, on top of the recipe `recipe`
            (`default` if not given; a name, the path of a file, or a mapping of settings).

    Raises:
        UserError: For a mistake in settings or data. Nothing of an earlier run is touched by then.
        TrainingStopped: When SIGTERM or Ctrl-C asked for it; a checkpoint to resume from is saved by then.

    Example:
        >>> result = train(data_dir="data/tweets", output_dir="out", cell_type="gru")
        >>> result.metrics["validation"]["macro_recall"]
    """
    if settings:
        if any(part is not None for part in (model_args, data_args, training_args)):
            raise TypeError(
                f"train takes three dataclasses or settings by name, not both: found {', '.join(settings)}"
            )
        return run_training(parse_settings(settings))
    if model_args is None or data_args is None or training_args is None:
        raise TypeError("train takes model_args, data_args and training_args, or settings by name: data_dir=...")
    return run_training(Arguments(model_args, data_args, training_args))


@library_bars_off()
def run_training(arguments: Arguments, distillation: Distillation | None = None) -> TrainingResult:
    """See [`train`]; with `distillation` see [`~hf_rnn.distillation.distill`]."""
    _, data_args, training_args = arguments
    data_args.check_source()
    check_early(arguments)
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    main = training_args.process_index == 0  # of several processes one answers for the folder
    destination = find_destination(training_args) if main else None
    checkpoint = None
    if main or training_args.resume:
        checkpoint = output_dir.check_output_dir(
            folder,
            overwrite=training_args.overwrite_output_dir,
            resume=training_args.resume,
            processes=training_args.world_size,
            needs_best=bool(training_args.load_best_model_at_end),
        )
    report = DataReport()
    texts = load_texts(
        data_args,
        streaming=data_args.streaming,
        class_names=data_args.class_names,
        rejected_path=folder.root / output_dir.REJECTED_ROWS if main else None,
        report=report,
    )
    result = train_on(texts, report, arguments, checkpoint, distillation=distillation)
    if destination is None:
        return result
    return dataclasses.replace(result, url=push_run(folder.root, destination).url)


def train_on(
    texts: datasets.DatasetDict | datasets.IterableDatasetDict,
    report: DataReport,
    arguments: Arguments,
    checkpoint: Path | None = None,
    *,
    distillation: Distillation | None = None,
    task_specific_params: dict[str, Any] | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train on texts that are read already, and leave a finished folder.

    Args:
        texts: Splits as [`load_tsv`] gives them, `validation` among them if anything is to be measured on the way.
        report: What the load said of them.
        arguments: Checked by [`check_early`]. Nothing in them about where the texts lie is looked at.
        checkpoint: Go on from here.
        distillation: Adds a teacher's answers, and texts that only it has labelled, to the training rows.
        task_specific_params: Goes into the configuration as it is.
        quiet: Show neither bars nor a line an epoch.

    Raises:
        UserError: For texts without a word that is frequent enough, for splits that leak more than `fail_on_leak`
            allows, and for settings that do not fit together.
    """
    _, data_args, training_args = arguments
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    main = training_args.process_index == 0
    words = texts["train"]["text"]
    if distillation is not None:
        distillation.read(texts)
        words = distillation.texts_with_words(words)
    start = load_start(data_args)
    tokenizer = make_tokenizer(data_args, words) if start is None else start.tokenizer
    counted = texts["train"]["text"] if isinstance(texts, datasets.DatasetDict) else None
    arguments, tokenizer, vectors = prepare_vectors(arguments, tokenizer, counted)
    audited = None
    if isinstance(texts, datasets.DatasetDict) and (main or data_args.fail_on_leak is not None):
        audited = audit_run(texts, tokenizer, data_args, report)
    examples = encode(texts, tokenizer, data_args.max_length)
    class_names = list(texts["train"].features["label"].names)
    class_counts = report.label_counts["train"]
    check_calibration(training_args, examples, class_names, class_counts)
    if distillation is not None:
        examples = distillation.teach(texts, examples, tokenizer)
    set_seed(training_args.seed)
    entries = count_ids(tokenizer) if start is None else start.model.config.vocab_size
    config = _config(arguments.model, entries, tokenizer.pad_token_id, class_names, task_specific_params)
    model = RnnForSequenceClassification(config)
    if vectors is not None:
        put_vectors(model, vectors)
    if start is not None:
        start.put_into(model)
    made_from = take_fingerprints(
        examples,
        tokenizer,
        model.config,
        training_args,
        stream=report.fingerprint,
        vectors=None if vectors is None else vectors.fingerprint(),
        start=None if start is None else start.fingerprint(),
        **({} if distillation is None else distillation.fingerprints()),
    )
    if checkpoint is not None:
        _check_unchanged(checkpoint, made_from, anyway=training_args.resume_anyway)
    if main:
        output_dir.make_writable(folder)

    kind = RnnTrainer if distillation is None else distillation.trainer
    trainer = make_trainer(model, tokenizer, examples, training_args, folder, made_from, class_counts, kind)
    if quiet:
        trainer.silence()
    if main and training_args.overwrite_output_dir:
        trainer.add_callback(_ClearOutputDir(folder))
    with trainer.stop_request as asked:
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.asked_to_stop():  # too late for a save of its own
        raise TrainingStopped(asked.number, None)
    _check_finite(model, training_args)
    calibration = calibrate_run(trainer, examples, training_args, class_counts) if training_args.calibrate else None
    predicted = {split: trainer.predict(examples[split]) for split in ("validation", "test") if split in examples}
    metrics: dict[str, Any] = {
        split: evaluate_logits(found.predictions, found.label_ids, class_names) for split, found in predicted.items()
    }
    metrics["training"] = {
        "rows": sum(class_counts),
        "epochs": trainer.state.epoch,
        "steps": outcome.global_step,
        "seconds": round(outcome.metrics["train_runtime"], 1),
        "loss": outcome.training_loss,
        "parameters": model.num_parameters(),
    }
    if calibration is not None:
        metrics["calibration"] = calibration
    if distillation is not None:
        metrics["teacher"] = distillation.measure(predicted)
    if not trainer.is_world_process_zero():
        return TrainingResult(folder.root, metrics)
    name, history = folder.root.resolve().name, trainer.state.log_history
    facts = gather_facts(name, model, tokenizer, arguments, texts, class_counts, metrics, audited, vectors, start)
    settings = describe_settings(arguments, None if distillation is None else distillation.settings)
    card = output_dir.fill(
        folder, lambda unfinished: write_files(unfinished, model, tokenizer, settings, metrics, history, facts)
    )
    logger.info("the finished model is in %s", folder.root)
    return TrainingResult(folder.root, metrics, card)


class _ClearOutputDir(TrainerCallback):
    """Removes what an earlier run left once the new one has taken a step, by when all that can be refused has been."""

    def __init__(self, folder: FinishedFolder) -> None:
        self._folder = folder
        self._cleared = False

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if not self._cleared:
            output_dir.clear(self._folder)
        self._cleared = True


def check_early(arguments: Arguments) -> None:
    """Find mistakes that need no data to be found.

    Raises:
        UserError: For a setting out of its range, or settings that do not fit together.
    """
    metric = arguments.training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in _SCORES:
        raise UserError(f"metric_for_best_model {metric!r} is not known: take one of {', '.join(_SCORES)}")
    check_trainer_settings(arguments.training)
    names = ("tokenizer_name_or_path", "model_name_or_path", "vectors")
    sources = {name: getattr(arguments.data, name) for name in names}
    recipe = arguments.training.recipe
    if recipe not in recipe_names() and not arguments.training.resume:  # which removes nothing
        sources["recipe"] = recipe
    output_dir.check_apart(FinishedFolder(Path(str(arguments.training.output_dir))), sources)
    if arguments.data.streaming and arguments.data.fail_on_leak is not None:
        raise UserError("fail_on_leak compares all rows, which a stream never holds: leave out one of the two")
    if arguments.data.streaming and arguments.training.tokens_per_batch is not None:
        raise UserError(
            "tokens_per_batch needs the length of each row, which a stream does not tell: leave out streaming, or "
            "tokens_per_batch"
        )
    if arguments.model.freeze_embedding and arguments.training.embedding_learning_rate is not None:
        raise UserError("freeze_embedding leaves the embedding out of training: leave out embedding_learning_rate")
    if arguments.model.sparse_embedding and not arguments.model.freeze_embedding:
        check_sparse_gradients(arguments.training)
    _config(arguments.model)
    if arguments.training.bf16 and arguments.training.device.type == "cpu" and multiplies_bfloat16() is False:
        logger.warning("this processor has no instructions for bfloat16, in which training is slower: leave out bf16")


def _check_finite(model: RnnForSequenceClassification, training_args: RnnTrainingArguments) -> None:
    """Refuse to call a model finished that can answer nothing."""
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise UserError(
            f"the training diverged: {broken[0]} holds numbers that are NaN or infinite. Take a smaller learning_rate "
            f"than {training_args.learning_rate:g}, or clip gradients with max_grad_norm 1"
        )


def _check_unchanged(checkpoint: Path, made_from: dict[str, Any], *, anyway: bool) -> None:
    """Refuse to go on from a checkpoint of another run, or only say so when the user wants to go on anyway."""
    changed = compare(checkpoint, checkpoints.read_manifest(checkpoint)["made_from"], made_from)
    if not changed:
        return
    what = f"since {checkpoint} was saved this has changed: {', '.join(changed)}"
    if not anyway:
        raise UserError(f"{what}. Go back to what it was, or type --resume_anyway to go on all the same")
    logger.warning("%s; going on all the same", what)


def _config(
    model_args: ModelArguments,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
    class_names: Iterable[str] = (),
    task_specific_params: dict[str, Any] | None = None,
) -> RnnConfig:
    settings = dataclasses.asdict(model_args)
    if task_specific_params is not None:
        settings["task_specific_params"] = task_specific_params
    if vocab_size is not None:
        settings.update(vocab_size=vocab_size, pad_token_id=pad_token_id, id2label=dict(enumerate(class_names)))
    try:
        return RnnConfig(**settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error.__cause__ or error).split())) from error  # the cause is ours, and plain


def load_start(data_args: DataArguments) -> StartingModel | None:
    """Load the model that the settings name to go on from, if they do.

    Args:
        data_args: Says which.

    Raises:
        UserError: When it cannot be loaded.
    """
    name = data_args.model_name_or_path
    return None if name is None else StartingModel.load(name, data_args.max_length)


def make_tokenizer(data_args: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the settings name, or train one.

    Args:
        data_args: Says which, and with what settings.
        texts: The training texts, a table's column or a stream's.

    Raises:
        UserError: When the named one cannot be loaded or does not pad.
    """
    name = data_args.tokenizer_name_or_path
    if name is None:
        length = {} if data_args.max_length is None else {"model_max_length": data_args.max_length}
        return train_tokenizer(
            texts,
            min_frequency=data_args.min_frequency,
            max_vocab_size=data_args.max_vocab_size,
            lowercase=data_args.lowercase,
            normalizer=data_args.normalizer,
            **length,
        )
    if "/" in name or Path(name).exists():  # the Hub's oldest tokenizers have names without an owner
        check_name(name, "a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a file of a newer library makes tokenizers raise `Exception` itself
        if (nested := nested_model(Path(name))) is not None:
            raise UserError(f"{name} holds no tokenizer. Did you mean {nested}?") from error
        raise UserError(f"the tokenizer {name} cannot be loaded: {' '.join(str(error).split())}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token, which batches need")
    if "attention_mask" not in tokenizer.model_input_names:  # as some encoders' that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved
    if data_args.max_length is not None:
        tokenizer.model_max_length = data_args.max_length  # so that prediction cuts where training did
    return tokenizer


def make_trainer(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    examples: datasets.DatasetDict | datasets.IterableDatasetDict,
    training_args: RnnTrainingArguments,
    folder: FinishedFolder,
    made_from: dict[str, Any] | None = None,
    class_counts: Sequence[int] | None = None,
    kind: Callable[..., RnnTrainer] = RnnTrainer,
) -> RnnTrainer:
    """Put model and examples into a Trainer whose checkpoints go below the finished folder.

    Args:
        model: To train.
        tokenizer: Pads, and is saved with each checkpoint.
        examples: Splits `train` and, for evaluations, `validation`, with `input_ids` and `labels`.
        training_args: How to train.
        folder: The finished folder to be.
        made_from: Fingerprints of the run, which its checkpoints keep.
        class_counts: Training rows by class; counted when absent, which a stream does not allow.
        kind: Makes the Trainer.

    Raises:
        UserError: For settings that the Trainer, the optimiser or the schedule refuses.
    """
    below = copy.copy(training_args)
    below.output_dir = str(folder.checkpoints)
    below.push_to_hub = False  # which is done once, with the finished folder
    train_examples: Any = examples["train"]
    if isinstance(train_examples, datasets.IterableDataset):
        if class_counts is None:
            raise ValueError("a stream does not tell its length: give class_counts")
        seed = None if below.train_sampling_strategy == "sequential" else below.data_seed
        train_examples = CountedStream(train_examples, sum(class_counts), seed)
    try:
        trainer = kind(
            model=model,
            args=below,
            train_dataset=train_examples,
            eval_dataset=examples.get("validation"),
            processing_class=tokenizer,
            compute_metrics=_scores(list(model.config.id2label.values())),
            made_from=made_from,
            class_counts=class_counts,
        )
        trainer.try_optimizer()
        trainer.try_batches()
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(f"the Trainer refuses these settings: {' '.join(str(error).split())}") from error
    return trainer


def _scores(class_names: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """The numbers that are logged at each evaluation: those that are one number."""

    def compute_metrics(predicted: EvalPrediction) -> dict[str, float]:
        metrics = classification_metrics(predicted.predictions.argmax(axis=-1), predicted.label_ids, class_names)
        return {name: value for name, value in metrics.items() if isinstance(value, float)}

    return compute_metrics
