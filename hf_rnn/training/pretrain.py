"""Pretraining: teach a recurrent encoder the states of another at every token, without labels.

The student reads a part of the teacher's vocabulary, and its token table is the principal
components of the teacher's. The teacher reads the student's tokens, so that both have a state at
each of them. It is asked for each batch when the student learns from it, so texts may be many: new
ones teach more than a second pass over the same. Some texts are mistyped for the student alone: its
states at a word must be those that the teacher has at the word without mistakes.

Legend: B texts of a batch, T tokens of a text, V tokens of the student, S width of the teacher's
states.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModel,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ..data.encode import measure_pieces
from ..data.typos import mistype_half
from ..hub.model_folder import find_folder
from ..inference.engine import batch_by_length
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnModel, RnnPreTrainedModel
from ..settings.resolve import Settings, resolve
from ..tokenizers.normalizers import plain_placeholders
from ..utils.errors import DataError, ModelError, SettingError
from ..utils.process import library_bars_off, one_at_a_time
from .folder import fingerprint_run, open_output, remove_checkpoints, replace_model
from .save import TrainingResult, write_encoder
from .teacher import Teacher, read_unlabeled
from .train import make_config, take_steps
from .trainer import RnnTrainer

if TYPE_CHECKING:
    from ..settings.keywords import PretrainKeywords

logger = logging.getLogger(__name__)

_REWRITE = normalizers.Sequence(plain_placeholders())
_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])")
_LEAST_TEXTS = 20
_BATCH = 4096  # texts that are tokenized at once
_TOKENS_PER_BATCH = 2048  # that the teacher reads at once, padding included
_COLUMNS = ("teacher_ids", "teacher_words", "input_ids", "input_words")


@one_at_a_time()
def pretrain(**settings: Unpack[PretrainKeywords]) -> TrainingResult:
    """Teach a recurrent encoder a teacher's states at every token, minus their mean; save it.

    The mean of a text's states is its sentence vector. The folder is loaded by `AutoModel`, by
    `SentenceTransformer` and, as a start, by `train` and `RnnClassifier` with `model_name_or_path`.

    Args:
        settings: Settings by the names of the command's flags, on top of the recipe `pretrain`.

    Raises:
        UserError: For a mistake in settings, texts or teacher.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> pretrain(teacher="all-MiniLM-L6-v2", input=["tweets.txt.gz"], output_dir="encoder")
    """
    return run_pretraining(resolve(settings, "pretrain"))


@library_bars_off()
def run_pretraining(settings: Settings) -> TrainingResult:
    """Teach an encoder with these settings; see [`pretrain`]."""
    options = settings.pretraining
    args = copy.copy(settings.training)
    if options.teacher is None or not options.input:
        raise SettingError(
            "give teacher, the folder or Hub id of an encoder, "
            "and input, files with one text per line"
        )
    if args.push_to_hub:
        raise SettingError(
            "push_to_hub is for models with a head: leave it out, and type `hf upload` later"
        )
    with open_output(args) as (folder, checkpoint):
        texts, counts = read_unlabeled(
            options.input,
            options.text_column,
            fault=lambda text: None if text else "blank",
            cut=lambda text: cut_sentences(text, options.split_characters),
            most=options.max_texts,
        )
        if len(texts) < _LEAST_TEXTS:
            raise DataError(
                f"there are too few texts to learn from: found {len(texts)}; "
                f"give {_LEAST_TEXTS} or more"
            )
        teacher = Encoder.open(str(options.teacher), options.teacher_max_length, args)
        tokenizer = teacher.share_pieces(settings, texts)
        random.Random(args.seed).shuffle(texts)
        count = min(options.held_out, len(texts) // 10)
        draw = random.Random(args.seed)
        held_out = encode_pairs(texts[:count], tokenizer, teacher.most_tokens)
        train = encode_pairs(texts[count:], tokenizer, teacher.most_tokens, args.typos, draw)

        set_seed(args.seed)
        model = _make_student(settings, teacher)
        args.output_dir = str(folder.checkpoints)
        args.load_best_model_at_end = False
        args.remove_unused_columns = False  # the collator selects columns
        splits = {"train": train, "validation": held_out}
        trainer = RnnTrainer(
            model,
            args,
            made_from={
                **fingerprint_run(splits, model.config, args),
                "the teacher": teacher.hash,
            },
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            data_collator=StateCollator(teacher, held_out),
            compute_metrics=measure,
        )
        numbers = take_steps(trainer, checkpoint)
        measured = trainer.predict(held_out).metrics
        figures = {
            "teacher": {
                "name": teacher.name,
                "state_size": model.state_size,
                "max_length": teacher.max_length,
            },
            "texts": {**counts, "learned": len(train), "held_out": count},
            "held_out": {name: measured[f"test_{name}"] for name in ("cosine", "token_cosine")},
            **measure_pieces(tokenizer, texts[:count]),
            "training": numbers,
            "parameters": model.rnn.num_parameters(),
        }
        if args.process_index == 0:
            replace_model(
                folder,
                lambda new: write_encoder(
                    new, model.rnn, model.projection, tokenizer, figures, settings
                ),
            )
            remove_checkpoints(folder)
            logger.info("the encoder is in %s", folder.root)
    shown = {name: figures[name] for name in ("texts", "held_out", "training")}
    return TrainingResult(folder.root, shown)


# ---- texts and tokens ----


def cut_sentences(text: str, most: int | None) -> Iterator[str]:
    """Yield parts of a text of at most `most` characters, cut between sentences.

    A longer sentence is one part; None does not cut.
    White space becomes single, and handles and links are rewritten as the student's tokenizer will.
    """
    text = " ".join(_REWRITE.normalize_str(text).split())
    part = ""
    for sentence in [text] if most is None or len(text) <= most else _END_OF_SENTENCE.split(text):
        if part and len(part) + len(sentence) >= (most or 0):
            yield part
            part = ""
        part = f"{part} {sentence}".strip()
    yield part


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    size: int | None,
    model_max_length: int,
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Return the teacher's tokenizer with the `size` pieces that the texts use most.

    The list has the teacher's ids of these pieces. All pieces that occur stay without a size. All
    characters of used pieces stay with any size, so that a word without its piece is split into
    smaller ones. Special tokens other than padding and unknown are left out, and no tokens are put
    around a text. Handles and links are rewritten, see [`plain_placeholders`].

    Raises:
        ModelError: For a tokenizer whose model is neither WordPiece, as BERT's, nor Unigram, as
            XLM-R's.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    algorithm = content.get("model", {}).get("type")
    if algorithm not in ("WordPiece", "Unigram"):
        raise ModelError(
            "the teacher's tokens must be of WordPiece or Unigram: "
            f"found {algorithm}; give another teacher"
        )
    unknown = tokenizer.unk_token
    pad = tokenizer.pad_token
    backend = Tokenizer.from_str(json.dumps({**content, "padding": None, "truncation": None}))
    steps = [_REWRITE] if backend.normalizer is None else [_REWRITE, backend.normalizer]
    if algorithm == "Unigram":  # a text that spells a special token does not mean it
        steps += [normalizers.Replace(sign, sign[1:-1]) for sign in (pad, unknown)]
    backend.normalizer = normalizers.Sequence(steps)

    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            counts.update(encoding.ids)
    for index in tokenizer.all_special_ids:
        counts.pop(index, None)
    content = json.loads(backend.to_str())
    model = content["model"]
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    if size is not None:
        size -= len(ids)
    if algorithm == "Unigram":
        ids += rank_pieces(counts, [piece for piece, _ in model["vocab"]], size)
        model |= {"vocab": [model["vocab"][index] for index in ids], "unk_id": 1}
    else:
        names = sorted(model["vocab"], key=model["vocab"].get)
        inside = model["continuing_subword_prefix"]
        ids += rank_pieces(counts, [name.removeprefix(inside) for name in names], size)
        model["vocab"] = {names[index]: place for place, index in enumerate(ids)}
    pruned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            json.dumps({**content, "post_processor": None, "added_tokens": []})
        ),
        unk_token=unknown,
        pad_token=pad,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )
    return pruned, ids


def load_pieces(
    name_or_path: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Return the tokenizer of an encoder to teach further, and the teacher's ids of its pieces.

    Raises:
        ModelError: For an encoder with pieces that the teacher lacks, such as emoji that were added
            later.
    """
    student = AutoTokenizer.from_pretrained(find_folder(name_or_path))
    ids = tokenizer.get_vocab()
    pieces = student.convert_ids_to_tokens(range(len(student)))
    missing = [piece for piece in pieces if piece not in ids]
    if missing:
        raise ModelError(
            f"{name_or_path} has {len(missing):,} pieces that the teacher lacks, such as "
            f"{missing[0]!r}: give the teacher that it learned from, "
            "and an encoder without added pieces"
        )
    return student, [ids[piece] for piece in pieces]


def rank_pieces(counts: Mapping[int, int], pieces: Sequence[str], size: int | None) -> list[int]:
    """Return the ids of pieces by falling count: the used characters, and others up to `size`.

    `counts` are by id, and `pieces` have the piece of each id. A used character occurs twice or
    more; all of them stay with any size.
    """
    characters: Counter[str] = Counter()
    for index, count in counts.items():
        characters.update(dict.fromkeys(pieces[index], count))
    seen = {character for character, count in characters.items() if count > 1}
    single = [index for index, piece in enumerate(pieces) if piece in seen]

    def rank(index: int) -> tuple[int, int]:
        return -counts.get(index, 0), index

    longer = sorted(counts.keys() - {*single}, key=rank)
    if size is not None:
        longer = longer[: max(0, size - len(single))]
    return sorted([*single, *longer], key=rank)


def encode_pairs(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    most: int | None,
    typos: float = 0.0,
    draw: random.Random | None = None,
) -> datasets.Dataset:
    """Return the tokens of texts that are not empty, each cut to `most` tokens.

    With `draw`, half of the texts are mistyped: the share `typos` of their words.

    `input_ids` are the tokens that the student reads, and `input_words` number their words.
    `teacher_ids` and `teacher_words` are those of the text without mistakes.
    """
    longest = tokenizer.model_max_length
    if most is not None:
        longest = min(longest, most)
    encode = tokenizer.backend_tokenizer.encode_batch
    tables: list[pa.Table] = []
    for start in range(0, len(texts), _BATCH):
        clean = list(texts[start : start + _BATCH])
        typed = clean if draw is None else list(mistype_half(clean, typos, draw))
        columns: dict[str, list[list[int]]] = {name: [] for name in _COLUMNS}
        for right, wrong in zip(encode(clean), encode(typed), strict=True):
            if not right.ids or not wrong.ids:
                continue
            row = (right.ids, right.word_ids, wrong.ids, wrong.word_ids)
            if right.ids == wrong.ids:  # then each token is a word of its own
                places = range(len(right.ids))
                row = (right.ids, places, right.ids, places)
            for name, values in zip(_COLUMNS, row, strict=True):
                columns[name].append(list(values[:longest]))
        arrays = {name: pa.array(column, pa.list_(pa.int32())) for name, column in columns.items()}
        arrays["length"] = pc.list_value_length(arrays["input_ids"])
        tables.append(pa.table(arrays))
    return datasets.Dataset(pa.concat_tables(tables)).with_format("numpy")


# ---- the teacher ----


@dataclass(frozen=True)
class Encoder(Teacher):
    """An encoder of transformers as the teacher; also that of a folder of sentence-transformers."""

    auto_class = AutoModel
    pieces: list[int] = field(default_factory=list)  # its ids of the student's tokens

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        ids = self.tokenizer("a")["input_ids"]
        text = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        first = ids.index(text[0])
        return ids[:first], ids[first + len(text) :]

    @property
    def most_tokens(self) -> int | None:
        """Tokens of a text, without special ones."""
        return None if self.max_length is None else self.max_length - sum(map(len, self.around))

    def share_pieces(self, settings: Settings, texts: Sequence[str]) -> PreTrainedTokenizerFast:
        """Return the student's tokenizer, and keep the ids of its tokens."""
        options = settings.pretraining
        if options.model_name_or_path is not None:
            tokenizer, pieces = load_pieces(options.model_name_or_path, self.tokenizer)
        else:
            tokenizer, pieces = prune_tokenizer(
                self.tokenizer, texts, options.max_vocab_size, options.model_max_length
            )
        self.pieces.extend(pieces)
        return tokenizer

    @torch.inference_mode()
    def read(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the last hidden states `(T, S)` at the tokens of texts."""
        states: list[np.ndarray] = [np.empty(0)] * len(rows)
        pieces = np.array(self.pieces)
        before, after = self.around
        device = self.model.device
        for batch in batch_by_length(rows, _TOKENS_PER_BATCH):  # type: ignore[arg-type]  # arrays
            spelled = [torch.tensor([*before, *pieces[rows[row]], *after]) for row in batch]
            ids = pad_sequence(spelled, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = pad_sequence([torch.ones_like(row) for row in spelled], batch_first=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.training.bf16):
                output = self.model(input_ids=ids.to(device), attention_mask=mask.to(device))
            hidden = output.last_hidden_state.float().cpu().numpy()[:, len(before) :]
            for place, row in enumerate(batch):
                states[row] = hidden[place, : len(rows[row])]
        return states


# ---- the student ----


class EncoderStudent(RnnPreTrainedModel):
    """A recurrent encoder and a linear layer to the teacher's space.

    The loss of a batch is the mean of 1 - cosine to the teacher's state at every token, plus that
    of 1 - cosine of the mean of a text's states to that of the teacher's.
    """

    def __init__(self, config: RnnConfig, state_size: int) -> None:
        super().__init__(config)
        self.state_size = state_size
        self.rnn = RnnModel(config)
        self.projection = nn.Linear(config.output_size, state_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        states: torch.Tensor,
        labels: torch.Tensor,
    ) -> SequenceClassifierOutput:
        """Return the loss and as `logits` unit vectors `(B, S)` and text means of cosines `(B,)`.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`.
            states: The teacher's states `(B, T, S)`, zero at padding.
            labels: Their mean `(B, S)`.
        """
        hidden = self.rnn(input_ids, attention_mask, return_dict=True).last_hidden_state
        lengths = attention_mask.sum(dim=1)
        projected = self.projection(hidden).float() * attention_mask[..., None]
        vectors = normalize(projected.sum(dim=1), dim=-1)
        sizes = projected.norm(dim=-1) * states.norm(dim=-1)
        # cheaper than torch's cosine_similarity
        cosines = (projected * states).sum(dim=-1) / sizes.clamp(min=1e-8)
        loss = (
            2
            - (vectors * normalize(labels, dim=-1)).sum(dim=-1).mean()
            - cosines.sum() / lengths.sum()
        )
        return SequenceClassifierOutput(loss=loss, logits=(vectors, cosines.sum(dim=1) / lengths))


class StateCollator:
    """Ask the teacher for the states of a batch, subtract their mean, and pad.

    States of some teachers share a large mean, which would hide how they differ. It is that over
    `sample`.
    """

    def __init__(self, teacher: Encoder, sample: datasets.Dataset) -> None:
        self._teacher = teacher
        self._mean = np.concatenate(teacher.read(sample["teacher_ids"][:])).mean(axis=0)

    def __call__(self, features: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Return a batch for [`EncoderStudent`]."""
        read = self._teacher.read([row["teacher_ids"] for row in features])
        answers = [states - self._mean for states in read]
        states = [_spread(answer, row) for answer, row in zip(answers, features, strict=True)]
        ids = [torch.from_numpy(row["input_ids"].astype(np.int64)) for row in features]
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "states": pad_sequence([torch.from_numpy(row) for row in states], batch_first=True),
            "labels": torch.from_numpy(np.stack([answer.mean(axis=0) for answer in answers])),
        }


def _spread(states: np.ndarray, row: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return at each of the student's tokens the mean of the teacher's states at its word.

    `states` is `(T, S)` at the teacher's tokens. At words that the teacher did not read it is zero.
    Mistakes between Chinese characters change the number of words: then only the words before them
    agree.
    """
    words, starts = np.unique(row["teacher_words"], return_index=True)
    means = np.add.reduceat(states, starts) / np.diff([*starts, len(states)])[:, None]
    wanted = np.searchsorted(words, row["input_words"]).clip(max=len(words) - 1)
    return (means[wanted] * (words[wanted] == row["input_words"])[:, None]).astype(np.float32)


def _make_student(settings: Settings, teacher: Encoder) -> EncoderStudent:
    """Return an encoder to teach further, or a new one.

    The table of a new one has the principal components of the teacher's token vectors. Raises a
    [`SettingError`] for more columns than that table has.
    """
    start = settings.pretraining.model_name_or_path
    if start is not None:
        encoder = RnnModel.from_pretrained(find_folder(start), dtype=torch.float32)
        model = EncoderStudent(encoder.config, teacher.config.hidden_size)
        model.rnn = encoder
        weights = load_file(find_folder(start) / "2_Dense" / "model.safetensors")
        model.projection.load_state_dict(
            {name.removeprefix("linear."): weight for name, weight in weights.items()}
        )
        return model
    table = teacher.model.get_input_embeddings().weight.detach().cpu()[teacher.pieces]
    size = settings.model.embedding_size
    if size > table.shape[1]:
        raise SettingError(
            f"embedding_size is at most that of the teacher's table, {table.shape[1]}: found {size}"
        )
    centered = table.double() - table.double().mean(dim=0)
    components = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)
    reduced = centered @ components[:, :size]
    config = make_config(settings.model, vocab_size=len(table), pad_token_id=0)
    model = EncoderStudent(config, teacher.config.hidden_size)
    with torch.no_grad():
        # 0 is padding
        model.get_input_embeddings().weight[1:] = reduced[1:] / reduced.square().mean().sqrt()
    return model


def measure(output: EvalPrediction) -> dict[str, float]:
    """Return the mean cosines to the teacher's states.

    `token_cosine` is a mean over the tokens of each text, then over texts. `cosine` compares the
    means over a text.
    """
    vectors, by_text = (torch.as_tensor(part, dtype=torch.float32) for part in output.predictions)
    targets = normalize(torch.as_tensor(output.label_ids, dtype=torch.float32), dim=-1)
    return {
        "cosine": (vectors * targets).sum(dim=-1).mean().item(),
        "token_cosine": by_text.mean().item(),
    }
