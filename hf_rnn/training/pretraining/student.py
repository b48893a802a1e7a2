"""The student of a pretraining: the teacher's word pieces and token vectors, a recurrent encoder, and the loss.

Legend: B texts of a batch, T tokens, V pieces of the student, E width of its token vectors, S width of a teacher's
vector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers
from torch import nn
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from ...models.cells_rnn import MinGru
from ...models.configuration_rnn import RnnConfig
from ...models.modeling_rnn import RnnModel, RnnPreTrainedModel
from ...models.pooling_rnn import find_pooler
from ...tokenizers.normalizers import plain_placeholders
from ...utils.errors import UserError

_BATCH = 4096  # texts tokenized at once


class EncoderStudent(RnnPreTrainedModel):
    """A recurrent encoder, its pooling, and a linear layer to the teacher's space.

    The loss of a batch is the mean of 1 - cosine to the teacher's sentence vectors and, with the teacher's states, of
    1 - cosine to them at every token. The linear layer is the same for both, since the mean of projected states is the
    projected mean; states of another width than the vectors (`state_size`) have a layer of their own.
    """

    def __init__(self, config: RnnConfig, vector_size: int, state_size: int | None = None) -> None:
        super().__init__(config)
        self.rnn = RnnModel(config)
        self.pooler: Any = find_pooler(config)(config)
        self.projection = nn.Linear(self.pooler.output_size, vector_size)
        self.token_projection = None
        if state_size is not None and state_size != vector_size:
            self.token_projection = nn.Linear(config.output_size, state_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return unit vectors `(B, S)` of texts as `logits`, and the loss.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`.
            labels: The teacher's vectors `(B, S)`.
            states: The teacher's states `(B, T, S')`. With them `logits` are two: the vectors, and each text's mean
                cosine of tokens `(B,)`.
        """
        hidden = self.rnn(input_ids, attention_mask, return_dict=True).last_hidden_state
        pooled, _ = self.pooler(hidden, attention_mask.bool())
        vectors = normalize(self.projection(pooled).float(), dim=-1)
        if labels is None:
            return SequenceClassifierOutput(logits=vectors)
        loss = 1 - (vectors * normalize(labels.float(), dim=-1)).sum(dim=-1).mean()
        if states is None:
            return SequenceClassifierOutput(loss=loss, logits=vectors)
        project = self.projection if self.token_projection is None else self.token_projection
        projected, wanted = project(hidden).float(), states.float()
        products = (projected * wanted).sum(dim=-1)
        sizes = projected.norm(dim=-1) * wanted.norm(dim=-1)
        cosines = products / sizes.clamp(min=1e-8) * attention_mask  # cheaper than torch's cosine_similarity
        by_text = cosines.sum(dim=1) / attention_mask.sum(dim=1).clamp(min=1)
        loss = loss + 1 - cosines.sum() / attention_mask.sum().clamp(min=1)
        return SequenceClassifierOutput(loss=loss, logits=(vectors, by_text))


@torch.no_grad()
def normalize_states(model: EncoderStudent, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Scale the states of a plain minGRU to a root mean square of 1 over some texts, without a change of the vectors.

    Its states are linear in the weights of the candidates and have any size, while a new head expects the size of
    other cells' states. The projection takes the inverse factor. Residual blocks end with a norm and need nothing.
    """
    config = model.config
    if config.cell_type != "min_gru" or config.block_type == "residual":
        return
    layer: Any = model.rnn.layers[-1]
    total, count = 0.0, 0
    for start in range(0, len(texts), _BATCH // 16):
        batch = tokenizer(
            list(texts[start : start + _BATCH // 16]), padding=True, truncation=True, return_tensors="pt"
        )
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        states = model.rnn(**inputs, return_dict=True).last_hidden_state  # zero at padding
        total += states.double().square().sum().item()
        count += int(inputs["attention_mask"].sum()) * states.shape[-1]
    size = (total / max(1, count)) ** 0.5
    for direction in layer.directions:
        cell: MinGru = direction.cell
        for weight in (cell.weight_ih_l0, cell.bias_ih_l0):
            weight[cell.hidden_size :] /= size
    model.projection.weight *= size


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int | None, model_max_length: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Return the teacher's tokenizer with its `size` most frequent word pieces, and their ids in the teacher's table.

    Without a size, all pieces that occur stay, and the texts have the teacher's tokens. With one, all single
    characters that occur stay, so that a word without its piece is split into smaller ones. Special tokens other than
    padding and unknown are left out, and no tokens are put around a text. Handles and links are rewritten, see
    [`plain_placeholders`].

    Raises:
        UserError: For a tokenizer that is not made of word pieces.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    if content.get("model", {}).get("type") != "WordPiece":
        raise UserError("the teacher's tokens are not word pieces, as BERT's are: give another teacher")
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_padding()
    backend.no_truncation()
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*plain_placeholders(), *before])
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
            counts.update(encoding.ids)
    content = json.loads(backend.to_str())
    model = content["model"]
    names = {index: piece for piece, index in model["vocab"].items()}
    pad, unknown = tokenizer.pad_token, tokenizer.unk_token
    special = set(tokenizer.all_special_ids)
    prefix = model["continuing_subword_prefix"]
    ranked = [
        index for index, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if index not in special
    ]
    single = [index for index in ranked if len(names[index].removeprefix(prefix)) == 1]
    longer = [index for index in ranked if len(names[index].removeprefix(prefix)) > 1]
    room = len(longer) if size is None else max(0, size - 2 - len(single))
    chosen = {*single, *longer[:room]}
    kept = [tokenizer.pad_token_id, tokenizer.unk_token_id, *(index for index in ranked if index in chosen)]
    model["vocab"] = {names[index]: place for place, index in enumerate(kept)}
    content |= {"post_processor": None, "padding": None, "truncation": None, "added_tokens": []}
    return (
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(content)),
            unk_token=unknown,
            pad_token=pad,
            model_max_length=model_max_length,
            model_input_names=["input_ids", "attention_mask"],
            split_special_tokens=True,
        ),
        kept,
    )
