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
import pyarrow.compute as pc
import torch
from datasets.arrow_writer import ArrowWriter
from tokenizers import normalizers
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase, set_seed

from ...data.encoding import measure_pieces, read_rules
from ...data.vectors import compress_table
from ...hub.model_folder import FinishedFolder
from ...tokenizers.normalizers import plain_placeholders
from ...utils.errors import UserError
from ...utils.process_state import library_bars_off, one_at_a_time
from .. import output_dir
from ..build import make_config
from ..checkpointing.fingerprints import check_unchanged, take_fingerprints
from ..settings import (
    LANGUAGE_MODEL,
    Arguments,
    DataArguments,
    ModelArguments,
    PretrainingArguments,
    parse_pretraining,
)
from ..train import fit, run_training
from ..trainer import RnnTrainer
from ..training_arguments import RnnTrainingArguments
from .save import write_encoder
from .student import EncoderStudent, normalize_states, prune_tokenizer
from .teacher import SentenceTeacher, TeacherAnswers, hash_texts, iterate
from .texts import prepare_texts, read_dataset, read_lines

logger = logging.getLogger(__name__)

_BYTE_PAIRS = 14_000  # learned for causal_lm by default
POOLING = "mean"  # that of sentence-transformers; heads choose their own
_MOST_PAIRS = 200_000  # held-out texts that are compared
_SCORES = ("cosine", "token_cosine", "rank_agreement")


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
def pretrain(**settings: Any) -> PretrainingResult:
    """Teach a recurrent encoder what a teacher says of texts, and save it.

    With `objective="tokens"` the student learns the teacher's last hidden state at every token and its sentence
    vectors; with `"sentences"` the vectors alone. The folder is loaded by `AutoModel`, by `SentenceTransformer` and,
    as a start, by `train` and `RnnClassifier` with `model_name_or_path`. With `objective="causal_lm"` a language model
    learns the next token instead, as `train` does for that task; its folder is a start too.

    Args:
        settings: Settings by the names of the command's flags, on top of the recipe `pretrain`, or `lm` for causal_lm.

    Raises:
        UserError: For a mistake in settings, texts or teacher.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> pretrain(teacher="all-MiniLM-L6-v2", input=["tweets.txt.gz"], output_dir="encoder")
    """
    model_args, own, training_args = parse_pretraining(settings, "pretrain")
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
    teacher = SentenceTeacher(str(own.teacher), own.teacher_max_length, training_args.device, training_args.bf16)
    cache = Path(own.cache_dir) if own.cache_dir else folder.root / output_dir.PRETRAINING_CACHE
    main = training_args.process_index == 0
    counts: Counter[str] = Counter()
    with training_args.main_process_first(desc="texts"):
        texts = _make_texts(own, cache, counts)
        tokenizer, kept = prune_tokenizer(teacher.tokenizer, texts["text"], own.max_vocab_size, own.model_max_length)
        by_token = own.objective == "tokens"
        limit = teacher.max_length - teacher.count_special() if by_token and teacher.max_length is not None else None
        rows = _encode(texts, tokenizer, limit)
        facts = teacher.fingerprint(), own.objective, read_rules(tokenizer)
        answers = TeacherAnswers(
            texts, _count_tokens(rows) if by_token else None, cache, hash_texts(texts, json.dumps(facts))
        )
        if main:
            answers.prepare(teacher.vector_size, teacher.state_size)
    answers.compute(teacher, training_args.process_index, training_args.world_size)
    training_args.distributed_state.wait_for_everyone()
    vectors, states = answers.read()

    held_out = min(own.held_out, len(texts) // 10)
    order = np.random.default_rng(training_args.seed).permutation(len(texts))
    set_seed(training_args.seed)
    model = _make_student(model_args, teacher, kept, by_token)
    del teacher.model, teacher.network  # their memory
    made_from = take_fingerprints(
        {}, tokenizer, model.config, training_args, stream=answers.fingerprint,
        further_settings={"held_out": own.held_out},
    )  # fmt: skip
    if checkpoint is not None:
        check_unchanged(checkpoint, made_from, anyway=training_args.resume_anyway)
    args = copy.copy(training_args)
    args.output_dir, args.push_to_hub = str(folder.checkpoints), False
    trainer = RnnTrainer(
        model=model,
        args=args,
        train_dataset=_Rows(order[held_out:], rows, vectors, states),
        eval_dataset=_Rows(order[:held_out], rows, vectors, states),
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
        "objective": own.objective,
        "teacher": {"name": teacher.name, "vector_size": teacher.vector_size, "max_length": teacher.max_length},
        "texts": {**counts, "learned": len(texts) - held_out, "held_out": held_out},
        "held_out": {name: measured[f"test_{name}"] for name in _SCORES if f"test_{name}" in measured},
        **measure_pieces(tokenizer, sample),
        "training": training,
        "parameters": model.rnn.num_parameters(),
    }
    if main:
        output_dir.fill(
            folder, lambda unfinished: write_encoder(unfinished, model, tokenizer, record, own, training_args)
        )
        if not training_args.keep_checkpoints:
            output_dir.tidy(folder)
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
        max_vocab_size=own.max_vocab_size or _BYTE_PAIRS,
        lowercase=False,
    )
    result = run_training(Arguments(model_args, data_args, training_args))
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
        rewrite = normalizers.Sequence(plain_placeholders()).normalize_str  # as the student's tokenizer will
        for row in prepare_texts(map(rewrite, lines), counts, own.split_words, own.max_texts):
            writer.write(row)
        writer.finalize()
    if counts["kept"] < 20:
        raise UserError(f"there are too few texts to learn from: found {counts['kept']}; give at least 20")
    record.write_text(json.dumps({"made_from": made_from, "counts": counts}), encoding="utf-8")
    logger.info("texts: %s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return datasets.Dataset.from_file(str(file))


def _encode(texts: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> datasets.Dataset:
    """Return the token ids of the texts, at most `limit` per text."""
    limit = min(length for length in (limit, tokenizer.model_max_length) if length is not None)
    return texts.map(
        lambda batch: {"input_ids": tokenizer(batch["text"], truncation=True, max_length=limit)["input_ids"]},
        batched=True,
        remove_columns=["text"],
    )


def _count_tokens(rows: datasets.Dataset) -> np.ndarray:
    column = rows.with_format("arrow")[:]["input_ids"]
    return pc.list_value_length(column).to_numpy()


def _make_student(
    model_args: ModelArguments, teacher: SentenceTeacher, kept: Sequence[int], by_token: bool
) -> EncoderStudent:
    config = make_config(model_args, vocab_size=len(kept), pad_token_id=0)
    model = EncoderStudent(config, teacher.vector_size, teacher.state_size if by_token else None)
    table = teacher.read_table()[list(kept)]
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
    """Token ids, the teacher's vector and, if there are any, its states, of the rows with these numbers."""

    def __init__(self, numbers: np.ndarray, rows: datasets.Dataset, vectors: np.ndarray, states: Any) -> None:
        column = rows.with_format("arrow")[:]["input_ids"].combine_chunks()
        self._ids, self._offsets = np.asarray(column.flatten()), np.asarray(column.offsets)
        self._numbers, self._vectors, self._states = numbers, vectors, states
        self.lengths = (self._offsets[1:] - self._offsets[:-1])[numbers].tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._numbers[place]
        tokens = slice(self._offsets[row], self._offsets[row + 1])
        example = {"input_ids": self._ids[tokens], "labels": self._vectors[row]}
        return example if self._states is None else {**example, "states": self._states[tokens]}


class _Collator(DataCollatorWithPadding):
    """Pad token ids and states, and put the vectors into one tensor."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = dict(super().__call__([{"input_ids": row["input_ids"]} for row in features]))
        batch["labels"] = torch.from_numpy(np.stack([row["labels"] for row in features]).astype(np.float32))
        if "states" in features[0]:
            rows = [torch.from_numpy(np.array(row["states"])) for row in features]
            states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            batch["states"] = torch.nn.functional.pad(states, (0, 0, 0, batch["input_ids"].shape[1] - states.shape[1]))
        return batch


def measure(output: EvalPrediction) -> dict[str, float]:
    """Return the mean cosines to the teacher's vectors and states, and the agreement of similarities of pairs.

    The agreement is Spearman's correlation over random pairs of texts.
    """
    vectors, *by_text = output.predictions if isinstance(output.predictions, tuple) else (output.predictions,)
    student = torch.as_tensor(vectors, dtype=torch.float32)
    labels = output.label_ids[0] if isinstance(output.label_ids, tuple) else output.label_ids
    wanted = torch.nn.functional.normalize(torch.as_tensor(labels, dtype=torch.float32), dim=-1)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(len(student), (2, _MOST_PAIRS), generator=generator)
    first, second = pairs[:, pairs[0] != pairs[1]]
    ranks = [((unit[first] * unit[second]).sum(-1)).argsort().argsort().double() for unit in (student, wanted)]
    scores = {
        "cosine": (student * wanted).sum(dim=-1).mean().item(),
        "rank_agreement": torch.corrcoef(torch.stack(ranks))[0, 1].item(),
    }
    return {**scores, "token_cosine": float(by_text[0].mean())} if by_text else scores
