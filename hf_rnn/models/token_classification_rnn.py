"""The tagger on top of the recurrent encoder: a tag for each token, independent or from a conditional random field."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .cells_rnn import CompactTexts, RnnLayer
from .configuration_rnn import RnnConfig
from .crf_rnn import Crf
from .modeling_rnn import RnnModel, RnnPreTrainedModel
from .settings_rnn import IGNORED_LABEL

_SIZES = (1, 2, 3, 4)  # letters
_MARKS, MARK = ("⇧", "⇪"), 2  # marks of capitals, see the normaliser `cased`
FIRST_FORMS = len(_SIZES) + 1  # forms that belong to the first token of a word


class WordReader(nn.Module):
    """A recurrent layer over words, from the states after reading each one in either direction and from its form.

    The form of a word is its first and last letters, its shape, its capitals, and its tokens
    together, hashed to the rows of a table. So the reader also knows words that are new to the
    encoder. [`WordReader.read`] reads the vocabulary of a tokenizer.
    """

    codes: torch.Tensor
    forms: torch.Tensor
    kinds: torch.Tensor

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        settings = copy.copy(config)
        settings.cell_type, settings.hidden_size = "lstm", config.word_hidden_size
        self.table = nn.EmbeddingBag(config.word_forms, settings.hidden_size, mode="sum")
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.layer = RnnLayer(settings, config.output_size + settings.hidden_size)
        # each direction's states are read at its last token of a word; a residual stream has read
        # both sides
        self.size = config.output_size if config.block_type == "residual" else config.hidden_size
        self.drop = config.word_dropout
        self.register_buffer("codes", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.register_buffer(
            "forms", torch.zeros(config.vocab_size, len(list_forms("")), dtype=torch.int32)
        )
        self.register_buffer("kinds", torch.ones(config.vocab_size, dtype=torch.int8))

    def read(self, tokens: Sequence[str]) -> None:
        """Read the tokens of a vocabulary, in the order of their ids."""
        rows = self.table.num_embeddings
        hashed = [[crc32(form.encode()) % rows for form in list_forms(token)] for token in tokens]
        self.forms[: len(hashed)] = torch.tensor(hashed, dtype=torch.int32)
        self.codes[: len(tokens)] = torch.tensor([crc32(token.encode()) for token in tokens])
        begin = next(
            (mark for mark in "▁Ġ" if any(token.startswith(mark) for token in tokens)), None
        )
        starts = [
            token.startswith(begin) if begin else not token.startswith("##") for token in tokens
        ]
        kinds = [
            MARK if token[-1:] in _MARKS else int(start)
            for token, start in zip(tokens, starts, strict=True)
        ]
        self.kinds[: len(kinds)] = torch.tensor(kinds, dtype=torch.int8)

    @property
    def marks(self) -> torch.Tensor:
        """`(V,)`: True for the tokens that mark capitals, which the encoder does not read."""
        return self.kinds == MARK

    def forward(
        self,
        input_ids: torch.Tensor,
        states: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the states of words `(B, W, D * H)`; without the other arguments, the kinds of the tokens `(B, T)`.

        Args:
            input_ids: `(B, T)`.
            states: Those of the encoder, `(B, T, S)`.
            places: Number of each token's word, `(B, T)`; W at padding.
            mask: True at the words of each text, `(B, W)`.
        """
        if states is None or places is None or mask is None:
            return self.kinds[input_ids]
        batch, words = mask.shape
        length = input_ids.shape[1]
        order = torch.arange(length, device=input_ids.device).expand_as(input_ids)
        marks = self.kinds[input_ids] == MARK

        def find(among: torch.Tensor, reduce: str, start: int) -> torch.Tensor:
            """Return the first or last place of each word `(B, W)`; `start` for a word without such a place."""
            ends = order.new_full((batch, words + 1), start)
            return ends.scatter_reduce(1, places.masked_fill(~among, words), order, reduce)[
                :, :words
            ]

        begins, last = find(torch.ones_like(marks), "amin", length), find(~marks, "amax", -1)
        begins = begins.clamp(max=length - 1)
        last = torch.where(last < 0, begins, last)  # a mark without a word
        first = torch.minimum(find(~marks, "amin", length), last)
        distance = order - first.gather(1, places.clamp(max=words - 1))
        codes = (self.codes[input_ids] * (2 * distance + 1)).masked_fill(marks, 0)
        whole = codes.new_zeros(batch, words + 1).scatter_add(1, places, codes)[:, :words, None]
        starts, ends, capitals = (
            self.forms[input_ids.gather(1, tokens)].long() for tokens in (first, last, begins)
        )
        hashed = [starts[..., :FIRST_FORMS], ends[..., FIRST_FORMS:], capitals[..., :1]]
        rows = torch.cat([*hashed, whole % self.table.num_embeddings], dim=-1).flatten(0, 1)
        weights = nn.functional.dropout(states.new_ones(rows.shape), self.drop, self.training)
        forms = self.table(rows, per_sample_weights=weights).view(batch, words, -1)
        # forward, then backward
        ends_of_words = zip(states.split(self.size, dim=-1), (last, first), strict=False)
        sides = [
            side.gather(1, tokens[..., None].expand(-1, -1, self.size))
            for side, tokens in ends_of_words
        ]
        texts = CompactTexts(mask)
        vectors = texts.compact(torch.cat([*sides, forms], dim=-1))
        nothing = [None] * len(self.layer.directions)
        return texts.restore(self.layer(self.dropout(vectors), texts, nothing, nothing, False)[0])


def list_forms(token: str) -> list[str]:
    """Return the forms of a token, first those for the first token of a word, then those for the last.

    `▁` or `Ġ` marks a token that begins a word, or `##` one that does not.
    """
    word = re.sub("^(▁|Ġ|##)", "", token)
    shape = re.sub(r"[^\W\d_]+", "x", re.sub(r"\d+", "9", word))
    starts, ends = (
        [f"{size}<{word[:size]}" for size in _SIZES],
        [f"{size}>{word[-size:]}" for size in _SIZES],
    )
    return [*starts, f"<{shape}", *ends, f">{shape}", f"#{min(len(word), 6)}"]


@dataclass
class RnnTokenClassifierOutput(TokenClassifierOutput):
    """Output of [`RnnForTokenClassification`]; the states are those of [`RnnModelOutput`].

    Args:
        loss (scalar): Only with labels.
        logits (`(B, T, C)`): Scores before softmax, zero where the mask is zero. With `config.crf`,
            the score of the best tagging that has this tag at this token, minus that of the best
            one: 0 for its tags, negative for others. In training mode, `emissions`.
        emissions (`(B, T, C)`): With `config.crf`: the scores that the conditional random field
            reads.
    """

    emissions: torch.Tensor | None = None
    final_hidden_state: torch.Tensor | None = None
    final_cell_state: torch.Tensor | None = None
    final_conv_state: torch.Tensor | None = None


class RnnForTokenClassification(RnnPreTrainedModel):
    """[`RnnModel`] and a linear layer per token: token ids to logits of tags.

    `config.crf` adds a conditional random field: the loss is that of the whole tagging, and the
    largest logits are those of the best tagging. With tags B-X and I-X it is a valid one: I-X
    follows only B-X or I-X.
    """

    _auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.rnn = RnnModel(config)
        self.words = WordReader(config) if config.word_forms else None
        self.dropout = nn.Dropout(config.classifier_dropout)
        size = (
            config.num_directions * config.word_hidden_size
            if config.word_forms
            else config.output_size
        )
        self.classifier = nn.Linear(size, config.num_labels)
        self.crf = Crf(config.num_labels) if config.crf else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.EmbeddingBag):
            init.normal_(module.weight, std=0.1)
        elif isinstance(module, WordReader):
            init.zeros_(module.codes)
            init.zeros_(module.forms)
            init.ones_(module.kinds)
        elif isinstance(module, Crf):
            for parameter in module.parameters():
                init.zeros_(parameter)

    def resize_token_embeddings(self, *args: object, **kwargs: object) -> nn.Embedding:
        """Resize as in transformers; a new token begins a word, and [`WordReader.read`] gives it its forms."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        for name, new in (
            (("codes", 0), ("forms", 0), ("kinds", 1)) if self.words is not None else ()
        ):
            old = getattr(self.words, name)
            resized = old.new_full((embeddings.num_embeddings, *old.shape[1:]), new)
            resized[: len(old)] = old[: len(resized)]
            setattr(self.words, name, resized)
        return embeddings

    @can_return_tuple
    def forward(  # noqa: D417 - the other arguments are those of RnnModel
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> RnnTokenClassifierOutput:
        """Tag the tokens of a batch of texts.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): Tags; -100 at tokens without
                one, such as padding and all but the first piece of a word. The loss is per token
                with a tag.
            **kwargs: Further arguments of [`RnnModel.forward`]; `num_items_in_batch` is the number
                of tags over accumulated batches.
        """
        mask = self.rnn.read_mask(input_ids, attention_mask, inputs_embeds)
        labels = None if labels is None else labels.long().masked_fill(~mask, IGNORED_LABEL)
        seen, texts = mask, None
        if self.words is not None:
            if input_ids is None:
                raise ValueError(
                    "a tagger with word_forms needs input_ids, whose tokens have forms"
                )
            input_ids = input_ids.masked_fill(~mask, 0)
            kinds = self.words(input_ids)
            seen = mask & (kinds != MARK)  # the encoder does not read marks of capitals
        outputs = self.rnn(input_ids, seen, inputs_embeds, **kwargs, return_dict=True)
        states = outputs.last_hidden_state
        # tokens to words
        if self.words is not None and input_ids is not None and mask.shape[1] > 0:
            texts = CompactTexts(mask)
            ids, kinds, valid = texts.compact(input_ids).T, texts.compact(kinds).T, texts.valid.T
            starts = kinds > 0  # the tokens that begin a word
            starts[:, 1:] &= kinds[:, :-1] != MARK  # a mark belongs to the word after it
            starts[:, :1] = True
            starts &= valid
            counts = starts.sum(dim=1)
            count = starts.shape[1] if torch.compiler.is_exporting() else max(int(counts.max()), 1)
            places = (starts.cumsum(dim=1) - 1).masked_fill(~valid, count)
            mask = torch.arange(count, device=mask.device) < counts[:, None]
            states = self.words(ids, texts.compact(states).transpose(0, 1), places, mask)
            if labels is not None:
                firsts = texts.compact(labels).T[starts]
                labels = labels.new_full(mask.shape, IGNORED_LABEL)
                labels[mask] = firsts
        elif not mask.shape[1]:
            states = states.new_zeros(*mask.shape, self.classifier.in_features)
        emissions = self.classifier(self.dropout(states)) * mask[:, :, None]
        loss, logits = self._score(emissions, mask, labels, **kwargs)
        if texts is not None:  # words to tokens
            places = places.clamp(max=count - 1)[:, :, None].expand(-1, -1, self.num_labels)
            emissions, logits = (
                texts.restore(self._continue(scores.gather(1, places), starts).transpose(0, 1))
                for scores in (emissions, logits)
            )
        return RnnTokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            emissions=None if self.crf is None else emissions,
            final_hidden_state=outputs.final_hidden_state,
            final_cell_state=outputs.final_cell_state,
            final_conv_state=outputs.final_conv_state,
        )

    def _score(
        self,
        emissions: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor | None,
        **kwargs: object,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the loss, None without labels, and the logits `(B, T, C)`."""
        if self.crf is None or not mask.shape[1]:
            if labels is None:
                return None, emissions
            return self.loss_function(
                logits=emissions, labels=labels, config=self.config, **kwargs
            ), emissions
        texts, loss, logits = CompactTexts(mask), None, emissions
        compact = texts.compact(emissions).float()
        names = (
            ()
            if self.training
            else [self.config.id2label[index] for index in range(self.num_labels)]
        )
        tags = None if labels is None else texts.compact(labels)
        # one call, as hooks of offloading need it
        losses, best = self.crf(compact, texts.valid, tags, names)
        if labels is not None:
            count = kwargs.get("num_items_in_batch")
            loss = losses.sum() / ((labels >= 0).sum().clamp(min=1) if count is None else count)
        if best is not None:
            logits = texts.restore(best).to(emissions.dtype)
        return loss, logits

    def _continue(self, scores: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Return scores `(B, T, C)` of words at their tokens: the further ones of a word with B-X have I-X."""
        further = scores.clone()
        for name, begin in self.config.label2id.items():
            inside = self.config.label2id.get(f"I-{name[2:]}") if name.startswith("B-") else None
            if inside is not None:
                pair = scores[..., [begin, inside]]
                further[..., begin], further[..., inside] = pair.amin(dim=-1), pair.amax(dim=-1)
        return torch.where(starts[:, :, None], scores, further)
