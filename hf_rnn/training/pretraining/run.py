"""Run a pretraining: prepare texts, ask the teacher, train the student, and save an encoder."""

from __future__ import annotations

import copy
import json
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.arrow_writer import ArrowWriter
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase, set_seed

from ...data.encoding import measure_pieces
from ...data.vectors.model_table import ModelTable
from ...hub.model_folder import FinishedFolder
from ...utils.errors import UserError
from ...utils.process_state import library_bars_off, one_at_a_time
from .. import output_dir
from ..arguments.pretraining_arguments import LANGUAGE_MODEL, PretrainingArguments, parse_pretraining
from ..arguments.run_arguments import ModelArguments
from ..arguments.text_arguments import DataArguments
from ..arguments.training_arguments import RnnTrainingArguments
from ..build import check_trainer, make_config
from ..checkpointing.fingerprints import take_fingerprints
from ..checks import check_unchanged
from ..train import fit, train
from ..trainer import RnnTrainer
from .save import write_encoder
from .student import SentenceStudent, compress_table, normalize_states, prune_tokenizer
from .teacher import SentenceTeacher, TeacherVectors, iterate
from .texts import prepare_texts, read_dataset, read_lines

logger = logging.getLogger(__name__)

POOLING = "mean"  # that of sentence-transformers; heads choose their own
_MOST_PAIRS = 200_000  # held-out texts that are compared


@dataclass(frozen=True)
class PretrainingResult:
    """The folder of the encoder, and parts of its `pretraining.json`; for causal_lm the scores of the training."""

    folder: Path
    metrics: dict[str, Any]
    url: str | None = None

    def summarize(self) -> str:
        """Return two lines for people: what held-out texts show, and how to start from the encoder."""
        scores = self.metrics.get("held_out") or self.metrics.get("validation", {})
        shown = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items() if isinstance(value, float)]
        command = f"hf-rnn train DATA_DIR OUTPUT_DIR --model_name_or_path {shlex.quote(str(self.folder))}"
        return f"held-out texts: {', '.join(shown)}\nstart from it: {command}"


@one_at_a_time()
@library_bars_off()
def pretrain(
    model_args: ModelArguments | None = None,
    pretraining_args: PretrainingArguments | None = None,
    training_args: RnnTrainingArguments | None = None,
    **settings: Any,
) -> PretrainingResult:
    """Teach a recurrent encoder a teacher's sentence vectors, and save it.

    The folder is loaded by `AutoModel`, by `SentenceTransformer` and, as a start, by `train` and `RnnClassifier` with
    `model_name_or_path`. With `objective="causal_lm"` a language model learns the next token instead, as `train` does
    for that task; its folder is a start too.

    Args:
        model_args: Architecture.
        pretraining_args: Teacher and texts.
        training_args: Training and output folder.
        settings: In place of the three dataclasses: settings by the names of the command's flags, on top of the recipe
            `pretrain`, or `lm` for causal_lm.

    Raises:
        UserError: For a mistake in settings, texts or teacher.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> pretrain(teacher="all-MiniLM-L6-v2", input=["tweets.txt.gz"], output_dir="encoder")
    """
    if model_args is None or pretraining_args is None or training_args is None:
        model_args, pretraining_args, training_args = parse_pretraining(settings, "pretrain")
    elif settings:
        raise TypeError(f"pretrain takes three dataclasses or settings by name: found {', '.join(settings)}")
    own = pretraining_args
    own.check()
    if own.objective == "causal_lm":
        return _train_language_model(model_args, own, training_args)
    if model_args.pooling != POOLING:
        raise UserError(
            f"pooling must be {POOLING} in a pretraining: found {model_args.pooling!r}; heads choose their own"
        )
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    training_args = copy.copy(training_args)
    training_args.load_best_model_at_end = False
    checkpoint = output_dir.check_output_dir(folder, training_args)
    teacher = SentenceTeacher.open(
        str(own.teacher), max_length=own.teacher_max_length, device=training_args.device, bf16=training_args.bf16
    )
    cache = Path(own.cache_dir) if own.cache_dir else folder.root / output_dir.PRETRAINING_CACHE
    main = training_args.process_index == 0
    counts: Counter[str] = Counter()
    with training_args.main_process_first(desc="texts"):
        texts = _make_texts(own, cache, counts)
        tokenizer, kept = prune_tokenizer(teacher.tokenizer, texts["text"], own.max_vocab_size, own.model_max_length)
        rows = _encode(texts, tokenizer)
        answers = TeacherVectors(teacher, texts, cache)
        if main:
            answers.prepare()
    answers.compute(training_args.process_index, training_args.world_size)
    training_args.distributed_state.wait_for_everyone()
    vectors = answers.read()

    held_out = min(own.held_out, len(texts) // 10)
    order = np.random.default_rng(training_args.seed).permutation(len(texts))
    set_seed(training_args.seed)
    model = _make_student(model_args, own, teacher, kept, vectors.shape[1])
    made_from = take_fingerprints(
        {}, tokenizer, model.config, training_args, stream=answers.fingerprint, teacher=teacher.fingerprint,
        further_settings={"held_out": own.held_out},
    )  # fmt: skip
    if checkpoint is not None:
        check_unchanged(checkpoint, made_from, anyway=training_args.resume_anyway)
    args = copy.copy(training_args)
    args.output_dir, args.push_to_hub = str(folder.checkpoints), False
    trainer = check_trainer(
        RnnTrainer,
        model=model,
        args=args,
        train_dataset=_Rows(order[held_out:], rows, vectors),
        eval_dataset=_Rows(order[:held_out], rows, vectors),
        processing_class=tokenizer,
        compute_metrics=measure,
        data_collator=_Collator(tokenizer),
        made_from=made_from,
    )
    training = fit(trainer, folder, checkpoint)
    measured = trainer.predict(trainer.eval_dataset).metrics
    sample = [texts[int(row)]["text"] for row in order[:held_out]]
    normalize_states(model, sample, tokenizer)
    record = {
        "teacher": {"name": teacher.name, "vector_size": vectors.shape[1], "max_length": teacher.max_length},
        "texts": {**counts, "learned": len(texts) - held_out, "held_out": held_out},
        "held_out": {name: measured[f"test_{name}"] for name in ("cosine", "rank_agreement")},
        **measure_pieces(tokenizer, sample),
        "training": training,
        "parameters": model.rnn.num_parameters(),
    }
    if main:
        output_dir.fill(
            folder, lambda unfinished: write_encoder(unfinished, model, tokenizer, record, own, training_args)
        )
        logger.info("the encoder is in %s", folder.root)
    return PretrainingResult(folder.root, {name: record[name] for name in ("texts", "held_out", "training")})


def _train_language_model(
    model_args: ModelArguments, own: PretrainingArguments, training_args: RnnTrainingArguments
) -> PretrainingResult:
    """Write the texts as `train.txt` and `dev.txt`, and train a language model on them as `hf-rnn train` does."""
    cache = Path(own.cache_dir or Path(str(training_args.output_dir)) / output_dir.PRETRAINING_CACHE)
    with training_args.main_process_first(desc="texts"):
        texts = _make_texts(own, cache, Counter())
        held_out = min(own.held_out, len(texts) // 10)
        dev = set(np.random.default_rng(training_args.seed).permutation(len(texts))[:held_out].tolist())
        if training_args.process_index == 0:
            with (
                (cache / "train.txt").open("w", encoding="utf-8") as learned,
                (cache / "dev.txt").open("w", encoding="utf-8") as measured,
            ):
                for row, text in enumerate(iterate(texts)):
                    (measured if row in dev else learned).write(f"{text}\n")
    data_args = DataArguments(
        task=LANGUAGE_MODEL,
        data_dir=str(cache),
        tokenizer="bpe",
        min_frequency=1,
        max_vocab_size=own.max_vocab_size,
        lowercase=False,
    )
    result = train(model_args, data_args, training_args)
    return PretrainingResult(result.folder, result.metrics, result.url)


def _make_texts(own: PretrainingArguments, cache: Path, counts: Counter[str]) -> datasets.Dataset:
    """Return the distinct texts as a table on disk; read them again if settings or files have changed."""
    named: Any = own.input or [own.dataset_name, own.dataset_config, own.dataset_split, own.text_column]
    sizes = [
        [Path(path).stat().st_size, Path(path).stat().st_mtime_ns] for path in own.input or () if Path(path).is_file()
    ]
    made_from = json.loads(
        json.dumps({"from": named, "sizes": sizes, "split": own.split_words, "most": own.max_texts})
    )
    record, file = cache / "texts.json", cache / "texts.arrow"
    if record.is_file() and (known := json.loads(record.read_text("utf-8")))["made_from"] == made_from:
        counts.update(known["counts"])
        return datasets.Dataset.from_file(str(file))
    record.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    if own.input is not None:
        lines = read_lines(own.input, counts, own.text_column)
    else:
        lines = read_dataset(str(own.dataset_name), own.dataset_config, own.dataset_split, own.text_column)
    with ArrowWriter(features=datasets.Features({"text": datasets.Value("string")}), path=str(file)) as writer:
        for row in prepare_texts(lines, counts, own.split_words, own.max_texts):
            writer.write(row)
        writer.finalize()
    if counts["kept"] < 20:
        raise UserError(f"there are too few texts to learn from: found {counts['kept']}; give at least 20")
    record.write_text(json.dumps({"made_from": made_from, "counts": counts}), encoding="utf-8")
    logger.info("texts: %s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return datasets.Dataset.from_file(str(file))


def _encode(texts: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    return texts.map(
        lambda batch: {"input_ids": tokenizer(batch["text"], truncation=True)["input_ids"]},
        batched=True,
        remove_columns=["text"],
    )


def _make_student(
    model_args: ModelArguments, own: PretrainingArguments, teacher: SentenceTeacher, kept: Sequence[int], size: int
) -> SentenceStudent:
    config = make_config(model_args, vocab_size=len(kept), pad_token_id=0)
    model = SentenceStudent(config, size)
    found = ModelTable.find(teacher.folder, teacher.name).read_rows(kept)
    table = np.stack([found[index] for index in kept])
    if config.embedding_size > table.shape[1]:
        raise UserError(
            f"embedding_size is at most that of the teacher's table, {table.shape[1]}: found {config.embedding_size}"
        )
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight.copy_(torch.from_numpy(compress_table(table, config.embedding_size)))
        weight[config.pad_token_id] = 0
    return model


class _Rows(torch.utils.data.Dataset):
    """Token ids and teacher's vector of the rows with these numbers."""

    def __init__(self, numbers: np.ndarray, rows: datasets.Dataset, vectors: np.ndarray) -> None:
        column = rows.with_format("arrow")[:]["input_ids"].combine_chunks()
        self._ids, self._offsets = np.asarray(column.flatten()), np.asarray(column.offsets)
        self._numbers, self._vectors = numbers, vectors

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._numbers[place]
        ids = self._ids[self._offsets[row] : self._offsets[row + 1]]
        return {"input_ids": ids, "labels": self._vectors[row]}


class _Collator(DataCollatorWithPadding):
    """Pad token ids, and put the vectors into one tensor."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__([{"input_ids": row["input_ids"]} for row in features])
        vectors = np.stack([row["labels"] for row in features]).astype(np.float32)
        return {**batch, "labels": torch.from_numpy(vectors)}


def measure(output: EvalPrediction) -> dict[str, float]:
    """Return the mean cosine to the teacher's vectors, and Spearman's correlation of the similarities of pairs."""
    own, wanted = (torch.as_tensor(part, dtype=torch.float32) for part in (output.predictions, output.label_ids))
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(len(own), (2, _MOST_PAIRS), generator=generator)
    first, second = pairs[:, pairs[0] != pairs[1]]
    ranks = [((unit[first] * unit[second]).sum(-1)).argsort().argsort().double() for unit in (own, wanted)]
    return {
        "cosine": (own * wanted).sum(dim=-1).mean().item(),
        "rank_agreement": torch.corrcoef(torch.stack(ranks))[0, 1].item(),
    }
