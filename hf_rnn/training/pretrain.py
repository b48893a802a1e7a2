"""Pretraining: teach a recurrent encoder the token states and sentence vectors of another encoder, without labels.

The student reads a part of the teacher's vocabulary, and its token table is the principal components of the teacher's.
The teacher reads the student's tokens, so that both have a state at each of them.

Legend: B texts of a batch, T tokens, V tokens of the student, S width of a teacher's vector, S' that of its states.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, normalizers
from torch import nn
from torch.nn.functional import normalize
from transformers import EvalPrediction, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from ..data.encoding import measure_pieces
from ..hub.loading import check_name
from ..hub.model_folder import FinishedFolder
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnModel, RnnPreTrainedModel
from ..models.pooling_rnn import POOLERS
from ..tokenizers.normalizers import plain_placeholders
from ..utils.errors import UserError, install_hint, reason_of
from ..utils.process_state import library_bars_off, one_at_a_time
from .checkpoints import TEACHER_CACHE, fill, open_output, remove_checkpoints, take_fingerprint
from .encoder_folder import write_encoder
from .settings import ModelArguments
from .teacher import ask_teacher, hash_rows, read_texts
from .teacher_settings import PretrainingArguments, parse_pretraining
from .train import fit, make_config
from .trainer import RnnTrainer
from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

_REWRITE = normalizers.Sequence(plain_placeholders())
_POOLING = "mean"  # that of sentence-transformers; heads choose their own
_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])")
_BATCH = 4096  # texts that are tokenized at once, and those of a file of the teacher's states
_TOKENS_PER_BATCH = 2048  # that the teacher reads at once, padding included
_LEAST_TEXTS = 20
_SAMPLE = 2000  # texts for the mean of the teacher's states
_PAIRS = 200_000  # pairs of held-out texts whose similarities are compared
_SCORES = ("cosine", "token_cosine", "rank_agreement")


@dataclass(frozen=True)
class PretrainingResult:
    """The folder of the encoder, and parts of its `pretraining.json`."""

    folder: Path
    metrics: dict[str, Any]
    url: str | None = None

    def summarize(self) -> str:
        """Return two lines for people: the scores on held-out texts, and how to start from the encoder."""
        scores = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.metrics["held_out"].items()]
        command = f"hf-rnn train DATA_DIR OUTPUT_DIR --model_name_or_path {shlex.quote(str(self.folder))}"
        return f"held-out texts: {', '.join(scores)}\nstart from it: {command}"


@one_at_a_time()
@library_bars_off()
def pretrain(**settings: Any) -> PretrainingResult:
    """Teach a recurrent encoder the states of a teacher at every token, and its sentence vectors, and save it.

    The targets are states and vectors minus their mean. The folder is loaded by `AutoModel`, by `SentenceTransformer`
    and, as a start, by `train` and `RnnClassifier` with `model_name_or_path`.

    Args:
        settings: Settings by the names of the command's flags, on top of the recipe `pretrain`.

    Raises:
        UserError: For a mistake in settings, texts or teacher.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> pretrain(teacher="all-MiniLM-L6-v2", input=["tweets.txt.gz"], output_dir="encoder")
    """
    model_args, own, training_args = parse_pretraining(settings, "pretrain")
    own.check()
    if model_args.pooling != _POOLING:
        raise UserError(f"pooling must be {_POOLING} in a pretraining: found {model_args.pooling!r}; leave it out")
    with open_output(training_args) as (folder, checkpoint):
        return _pretrain(model_args, own, training_args, folder, checkpoint)


def _pretrain(
    model_args: ModelArguments,
    own: PretrainingArguments,
    training_args: RnnTrainingArguments,
    folder: FinishedFolder,
    checkpoint: Path | None,
) -> PretrainingResult:
    args = copy.copy(training_args)
    args.output_dir, args.push_to_hub = str(folder.checkpoints), False
    args.load_best_model_at_end, args.remove_unused_columns = False, False  # the collator selects the columns

    # the tokens, and what the teacher says of them
    texts, counts = read_texts(
        own.input or (),
        own.text_column,
        fault=lambda text: None if text else "blank",
        cut=lambda text: cut_sentences(text, own.split_characters),
        most=own.max_texts,
    )
    if len(texts) < _LEAST_TEXTS:
        raise UserError(f"there are too few texts to learn from: found {len(texts)}; give at least {_LEAST_TEXTS}")
    teacher = Teacher(str(own.teacher), own.teacher_max_length, args.device, args.bf16)
    tokenizer, teacher.pieces = prune_tokenizer(teacher.tokenizer, texts, own.max_vocab_size, own.model_max_length)
    rows, texts = encode_texts(texts, tokenizer, teacher.most_tokens)
    cache = Path(own.teacher_cache) if own.teacher_cache else folder.root / TEACHER_CACHE
    known = teacher.hash()
    answers = ask_teacher(rows, teacher.answer, known, cache, _BATCH, args.distributed_state).with_format("numpy")

    # the student
    held_out = min(own.held_out, len(texts) // 10)
    order = np.random.default_rng(args.seed).permutation(len(texts))
    set_seed(args.seed)
    config = make_config(model_args, vocab_size=len(tokenizer), pad_token_id=0)
    model = EncoderStudent(config, teacher.vector_size, teacher.state_size)
    with torch.no_grad():
        table = torch.from_numpy(reduce_table(teacher.read_table(), config.embedding_size))
        model.get_input_embeddings().weight[1:] = table[1:]  # padding stays zero
    about = {"name": teacher.name, "vector_size": teacher.vector_size, "max_tokens": teacher.most_tokens}
    del teacher  # its memory
    trainer = RnnTrainer(
        model=model,
        args=args,
        train_dataset=answers.select(order[held_out:]),
        eval_dataset=answers.select(order[:held_out]),
        processing_class=tokenizer,
        compute_metrics=measure,
        data_collator=StateCollator(answers, model.state_size),
        made_from=take_fingerprint({}, tokenizer, model, args, data=hash_rows(rows, f"{known} {own.held_out}")),
    )
    training = fit(trainer, checkpoint)
    measured = trainer.predict(trainer.eval_dataset).metrics

    # the folder
    record = {
        "teacher": about,
        "texts": {**counts, "learned": len(texts) - held_out, "held_out": held_out},
        "held_out": {name: measured[f"test_{name}"] for name in _SCORES},
        **measure_pieces(tokenizer, [texts[row] for row in order[:held_out]]),
        "training": training,
        "parameters": model.rnn.num_parameters(),
    }
    if args.process_index == 0:
        encoder, projection = model.rnn, model.projection
        fill(folder, lambda new: write_encoder(new, encoder, projection, tokenizer, record, own, training_args))
        remove_checkpoints(folder)
        logger.info("the encoder is in %s", folder.root)
    return PretrainingResult(folder.root, {name: record[name] for name in ("texts", "held_out", "training")})


# ---- texts and tokens ----


def cut_sentences(text: str, most: int | None) -> Iterator[str]:
    """Yield parts of a text of at most `most` characters, cut between sentences; a longer sentence is one part.

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
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int | None, model_max_length: int
) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """Return the teacher's tokenizer with the `size` pieces that the texts use most, and their ids of the teacher.

    All pieces that occur stay without a size. All characters of used pieces stay with any size, so that a word without
    its piece is split into smaller ones. Special tokens other than padding and unknown are left out, and no tokens are
    put around a text. Handles and links are rewritten, see [`plain_placeholders`].

    Raises:
        UserError: For a tokenizer whose model is neither WordPiece, as BERT's, nor Unigram, as XLM-R's.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    kind = content.get("model", {}).get("type")
    if kind not in ("WordPiece", "Unigram"):
        raise UserError(f"the teacher's tokens must be of WordPiece or Unigram: found {kind}; give another teacher")
    backend = Tokenizer.from_str(json.dumps(content | {"padding": None, "truncation": None}))
    before = [] if backend.normalizer is None else [backend.normalizer]
    pad = tokenizer.pad_token
    after = [normalizers.Replace(pad, pad[1:-1])] if kind == "Unigram" else []  # a text that spells it is not padding
    backend.normalizer = normalizers.Sequence([_REWRITE, *before, *after])
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
            counts.update(encoding.ids)
    for index in tokenizer.all_special_ids:
        counts.pop(index, None)
    content = json.loads(backend.to_str())
    model = content["model"]
    if kind == "WordPiece":
        prefix, names = model["continuing_subword_prefix"], sorted(model["vocab"], key=model["vocab"].get)
    else:
        prefix, names = "", [piece for piece, _ in model["vocab"]]
    characters: Counter[str] = Counter()
    for index, count in counts.items():
        characters.update(dict.fromkeys(names[index].removeprefix(prefix), count))
    seen = {character for character, count in characters.items() if count > 1}
    single = [index for index, piece in enumerate(names) if piece.removeprefix(prefix) in seen]
    first = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    ranked = sorted(counts.keys() - {*single}, key=lambda index: (-counts[index], index))
    ranked = ranked[: None if size is None else max(0, size - len(first) - len(single))]
    kept = [*first, *sorted([*single, *ranked], key=lambda index: (-counts[index], index))]
    if kind == "WordPiece":
        model["vocab"] = {names[index]: place for place, index in enumerate(kept)}
    else:
        model |= {"vocab": [model["vocab"][index] for index in kept], "unk_id": 1}
    content |= {"post_processor": None, "added_tokens": []}
    return (
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(content)),
            unk_token=tokenizer.unk_token,
            pad_token=pad,
            model_max_length=model_max_length,
            model_input_names=["input_ids", "attention_mask"],
            split_special_tokens=True,
        ),
        np.array(kept),
    )


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int | None
) -> tuple[list[np.ndarray], list[str]]:
    """Return the token ids of the texts that have any, at most `most` per text, and these texts."""
    most = min(length for length in (most, tokenizer.model_max_length) if length is not None)
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), _BATCH):
        ids = tokenizer(list(texts[start : start + _BATCH]), truncation=True, max_length=most)["input_ids"]
        rows += [np.array(row, np.int32) for row in ids]
    kept = [place for place, row in enumerate(rows) if len(row)]
    return [rows[place] for place in kept], [texts[place] for place in kept]


# ---- the teacher ----


class Teacher:
    """An encoder of sentences: a sentence-transformers model, or an encoder of transformers with mean pooling.

    Args:
        name_or_path: A folder, or a repo id of the Hub. Code of a repo is never run.
        max_length: Tokens per text, if that is less than the teacher's own limit.
        device: Where it runs.
        bf16: Whether to compute in bfloat16.

    Raises:
        UserError: If sentence-transformers is missing, or the teacher cannot be loaded.
    """

    def __init__(self, name_or_path: str, max_length: int | None, device: torch.device, bf16: bool) -> None:
        check_name(name_or_path, "a teacher")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(f"pretrain needs sentence-transformers. Type: {install_hint('pretrain')}") from error
        torch.manual_seed(0)  # weights that its files lack, such as an unused pooler, are the same in every run
        try:
            self.model = SentenceTransformer(
                name_or_path,
                device=str(device),
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
        except Exception as error:  # the libraries below raise exceptions of many kinds
            raise UserError(f"the teacher {name_or_path} cannot be loaded: {reason_of(error):.300}") from error
        self.name = Path(name_or_path).absolute().name if Path(name_or_path).is_dir() else name_or_path
        self.tokenizer = self.model.tokenizer
        around = self.tokenizer("a", return_special_tokens_mask=True)
        own = around["special_tokens_mask"].index(0)
        self._before = around["input_ids"][:own]
        self._after = [
            index for index, mark in zip(around["input_ids"], around["special_tokens_mask"], strict=True) if mark
        ][own:]
        limits = [limit for limit in (self.model.max_seq_length, max_length) if limit is not None]
        self.most_tokens = min(limits) - len(self._before) - len(self._after) if limits else None
        transformer: Any = self.model[0]
        self.network = transformer.auto_model
        self.state_size: int = self.network.config.hidden_size
        self.vector_size: int = self.model.encode(["a text"]).shape[1]
        self._bf16 = bf16
        self.pieces = np.arange(len(self.tokenizer))  # its ids of the student's tokens

    def hash(self) -> str:
        """Return a hash of all that decides the answers to tokens."""
        around = self._before, self._after, self.pieces.tolist()
        digest = hashlib.sha256(f"{self.model} {self._bf16} {around}".encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy())
        return digest.hexdigest()

    def read_table(self) -> np.ndarray:
        """Return the vectors `(V, E)` of the student's tokens."""
        return self.network.get_input_embeddings().weight.detach().cpu().float().numpy()[self.pieces]

    @torch.inference_mode()
    def answer(self, rows: Sequence[np.ndarray]) -> pa.Table:
        """Return the tokens of texts, unit vectors `(S,)` and the last hidden states `(T * S',)` of the tokens."""
        vectors = np.empty((len(rows), self.vector_size), np.float16)
        states: list[Any] = [None] * len(rows)
        for batch in batch_by_length([len(row) for row in rows]):
            spelled = [torch.tensor([*self._before, *self.pieces[rows[row]], *self._after]) for row in batch]
            pad = self.tokenizer.pad_token_id
            ids = nn.utils.rnn.pad_sequence(spelled, batch_first=True, padding_value=pad)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in spelled], batch_first=True)
            inputs = {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}
            with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                outputs = self.model(inputs)
            vectors[batch] = normalize(outputs["sentence_embedding"].float(), dim=-1).cpu().numpy()
            hidden = outputs["token_embeddings"].to(torch.float16).cpu().numpy()[:, len(self._before) :]
            for place, row in enumerate(batch):
                states[row] = hidden[place, : len(rows[row])].ravel()
        columns = {"input_ids": rows, "labels": list(vectors), "states": states}
        arrays = {name: _list_array(values) for name, values in columns.items()}
        return pa.table({**arrays, "length": pa.array([len(row) for row in rows], pa.int32())})


def _list_array(rows: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))


def batch_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar length, with at most 2048 tokens in a batch."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[row] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def reduce_table(table: np.ndarray, size: int) -> np.ndarray:
    """Return the first `size` principal components of token vectors `(V, E)`, scaled to a mean square of 1."""
    if size > table.shape[1]:
        raise UserError(f"embedding_size is at most that of the teacher's table, {table.shape[1]}: found {size}")
    centered = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    reduced = centered @ vectors[:, ::-1][:, :size]
    return (reduced / np.sqrt((reduced**2).mean())).astype(np.float32)


# ---- the student ----


class EncoderStudent(RnnPreTrainedModel):
    """A recurrent encoder, mean pooling, and a linear layer to the teacher's space.

    The loss of a batch is the mean of 1 - cosine to the teacher's sentence vectors, plus that of 1 - cosine to its
    state at every token. The linear layer is the same for both, since the mean of projected states is the projected
    mean; states of another width than the vectors have a layer of their own.
    """

    def __init__(self, config: RnnConfig, vector_size: int, state_size: int) -> None:
        super().__init__(config)
        self.state_size = state_size
        self.rnn = RnnModel(config)
        self.pooler: Any = POOLERS[config.pooling](config)
        self.projection = nn.Linear(self.pooler.output_size, vector_size)
        self.token_projection = nn.Linear(config.output_size, state_size) if state_size != vector_size else None
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, states: torch.Tensor
    ) -> SequenceClassifierOutput:
        """Return the loss and as `logits` unit vectors `(B, S)` and each text's mean cosine of tokens `(B,)`.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`.
            labels: The teacher's vectors `(B, S)`.
            states: The teacher's states `(B, T, S')`.
        """
        hidden = self.rnn(input_ids, attention_mask, return_dict=True).last_hidden_state
        pooled, _ = self.pooler(hidden, attention_mask.bool())
        vectors = normalize(self.projection(pooled).float(), dim=-1)
        projected = (self.token_projection or self.projection)(hidden).float()
        products = (projected * states).sum(dim=-1)
        sizes = projected.norm(dim=-1) * states.norm(dim=-1)
        cosines = products / sizes.clamp(min=1e-8) * attention_mask  # cheaper than torch's cosine_similarity
        loss = 2 - (vectors * normalize(labels, dim=-1)).sum(dim=-1).mean() - cosines.sum() / attention_mask.sum()
        return SequenceClassifierOutput(loss=loss, logits=(vectors, cosines.sum(dim=1) / attention_mask.sum(dim=1)))


class StateCollator:
    """Pad tokens and states of texts, and subtract the means of the teacher's vectors and states from them.

    States of some teachers share a large mean, which would hide how they differ.
    """

    def __init__(self, answers: datasets.Dataset, state_size: int) -> None:
        self._size = state_size
        sample = answers[:: max(1, len(answers) // _SAMPLE)]
        self._vector = np.mean(sample["labels"], axis=0)
        self._state = np.concatenate([row.reshape(-1, state_size) for row in sample["states"]]).mean(axis=0)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch for [`EncoderStudent`]."""

        def pad(rows: Iterable[np.ndarray]) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)

        states = [row["states"].reshape(-1, self._size) - self._state for row in features]
        return {
            "input_ids": pad(row["input_ids"].astype(np.int64) for row in features),
            "attention_mask": pad(np.ones(len(row["input_ids"]), np.int64) for row in features),
            "labels": torch.from_numpy(np.stack([row["labels"] - self._vector for row in features])),
            "states": pad(states),
        }


def measure(output: EvalPrediction) -> dict[str, float]:
    """Return the mean cosines to the teacher's vectors and states, and the agreement of similarities of pairs.

    The agreement is Spearman's correlation over random pairs of texts.
    """
    student, by_text = (torch.as_tensor(part, dtype=torch.float32) for part in output.predictions)
    wanted = normalize(torch.as_tensor(output.label_ids, dtype=torch.float32), dim=-1)
    pairs = torch.randint(len(student), (2, _PAIRS), generator=torch.Generator().manual_seed(0))
    first, second = pairs[:, pairs[0] != pairs[1]]
    ranks = [((unit[first] * unit[second]).sum(-1)).argsort().argsort().double() for unit in (student, wanted)]
    return {
        "cosine": (student * wanted).sum(dim=-1).mean().item(),
        "token_cosine": by_text.mean().item(),
        "rank_agreement": torch.corrcoef(torch.stack(ranks))[0, 1].item(),
    }
