"""The tagger on top of the recurrent encoder: a tag for each token.

Tags are independent, or from a conditional random field. Legend: B batch, T time, W words, C tags.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from zlib import crc32

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .cells_rnn import RnnLayer, TokenOrder
from .configuration_rnn import RnnConfig
from .crf_rnn import Crf
from .modeling_rnn import RnnModel, RnnPreTrainedModel
from .settings_rnn import IGNORED_LABEL

_SIZES = (1, 2, 3, 4)  # letters
_MARKS = ("⇧", "⇪")  # marks of capitals, see the normaliser `cased`
MARK = 2  # their kind; 1 is that of a token that starts words
FIRST_FORMS = len(_SIZES) + 1  # forms that belong to the first token of a word


class WordReader(nn.Module):
    """A recurrent layer over words, from the states after reading each one and from its form.

    The form of a word is its first and last letters, its shape, its capitals, and its tokens
    together, hashed to the rows of a table. So the reader also knows words that are new to the
    encoder. [`WordReader.read`] reads the vocabulary of a tokenizer.
    """

    codes: Tensor
    forms: Tensor
    kinds: Tensor

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        settings = copy.copy(config)
        settings.cell_type = "lstm"
        settings.hidden_size = config.word_hidden_size
        self.table = nn.EmbeddingBag(config.word_forms, settings.hidden_size, mode="sum")
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.layer = RnnLayer(settings, config.output_size + settings.hidden_size)
        # each direction's states are read at its last token of a word; a residual stream has read
        # both sides
        self.size = config.output_size if config.block_type == "residual" else config.hidden_size
        self.drop = config.word_dropout
        vocabulary = config.vocab_size
        forms = torch.zeros(vocabulary, len(list_forms("")), dtype=torch.int32)
        self.register_buffer("codes", torch.zeros(vocabulary, dtype=torch.int64))
        self.register_buffer("forms", forms)
        self.register_buffer("kinds", torch.ones(vocabulary, dtype=torch.int8))

    def read(self, tokens: Sequence[str]) -> None:
        """Read the tokens of a vocabulary, in the order of their ids."""
        rows = self.table.num_embeddings
        letters = {token[:1] for token in tokens}
        begin = next((mark for mark in "▁Ġ" if mark in letters), None)
        forms = []
        kinds = []
        for token in tokens:
            forms.append([hash_form(form) % rows for form in list_forms(token)])
            starts_word = token.startswith(begin) if begin else not token.startswith("##")
            kinds.append(MARK if token[-1:] in _MARKS else int(starts_word))
        self.forms[: len(forms)] = torch.tensor(forms, dtype=torch.int32)
        self.codes[: len(forms)] = torch.tensor([hash_form(token) for token in tokens])
        self.kinds[: len(kinds)] = torch.tensor(kinds, dtype=torch.int8)

    @property
    def marks(self) -> Tensor:
        """`(V,)`: True for the tokens that mark capitals, which the encoder does not read."""
        return self.kinds == MARK

    def forward(
        self,
        input_ids: Tensor,
        states: Tensor | None = None,
        places: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the states of words `(B, W, D * H)`, or from ids alone their kinds `(B, T)`.

        Args:
            input_ids: `(B, T)`.
            states: Those of the encoder, `(B, T, S)`.
            places: Number of each token's word, `(B, T)`; W at padding.
            mask: True at the words of each text, `(B, W)`.
        """
        if states is None or places is None or mask is None:
            return self.kinds[input_ids]
        is_mark = self.kinds[input_ids] == MARK
        tokens = _find_tokens(places, is_mark, mask.shape[1])
        parts = []
        # forward from the last tokens of words, then backward from the first
        for side, ends in zip(states.split(self.size, dim=-1), tokens[1::-1], strict=False):
            parts.append(side.gather(1, ends[..., None].expand(-1, -1, self.size)))
        rows = self._hash_forms(input_ids, places, is_mark, tokens)
        weights = nn.functional.dropout(states.new_ones(rows.shape), self.drop, self.training)
        parts.append(self.table(rows, per_sample_weights=weights).view(*mask.shape, -1))

        order = TokenOrder(mask)
        vectors = self.dropout(order.compact(torch.cat(parts, dim=-1)))
        zero = [None] * len(self.layer.directions)
        return order.restore(self.layer(vectors, order, zero, zero, False)[0])

    def _hash_forms(
        self,
        input_ids: Tensor,
        places: Tensor,
        is_mark: Tensor,
        tokens: Sequence[Tensor],
    ) -> Tensor:
        """Return the rows `(B * W, F)` of each word's forms; `tokens` are its ends."""
        batch, words = tokens[0].shape
        order = torch.arange(places.shape[1], device=places.device)
        distance = order - tokens[0].gather(1, places.clamp(max=words - 1))
        codes = (self.codes[input_ids] * (2 * distance + 1)).masked_fill(is_mark, 0)
        whole = codes.new_zeros(batch, words + 1).scatter_add(1, places, codes)[:, :words, None]
        starts, ends, capitals = [self.forms[input_ids.gather(1, ids)].long() for ids in tokens]
        rows = [
            starts[..., :FIRST_FORMS],
            ends[..., FIRST_FORMS:],
            capitals[..., :1],
            whole % self.table.num_embeddings,
        ]
        return torch.cat(rows, dim=-1).flatten(0, 1)


def _find_tokens(places: Tensor, is_mark: Tensor, words: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places `(B, W)` of each word's first and last token, and of its beginning.

    The beginning may be a mark of capitals; the other two may if all tokens of the word are marks.
    """
    batch, length = places.shape
    order = torch.arange(length, device=places.device).expand_as(places)
    unmarked = places.masked_fill(is_mark, words)

    def find(words_of_tokens: Tensor, reduce: str, missing: int) -> Tensor:
        ends = order.new_full((batch, words + 1), missing)
        return ends.scatter_reduce(1, words_of_tokens, order, reduce)[:, :words]

    begin = find(places, "amin", length).clamp(max=length - 1)
    last = find(unmarked, "amax", -1)
    last = torch.where(last < 0, begin, last)
    first = torch.minimum(find(unmarked, "amin", length), last)
    return first, last, begin


def hash_form(form: str) -> int:
    """Return the hash of a form or a token."""
    return crc32(form.encode())


def list_forms(token: str) -> list[str]:
    """Return the forms of a token: those for the first token of a word, then those for the last.

    `▁` or `Ġ` marks a token that begins a word, or `##` one that does not.
    """
    word = re.sub("^(▁|Ġ|##)", "", token)
    shape = re.sub(r"[^\W\d_]+", "x", re.sub(r"\d+", "9", word))
    starts = [f"{size}<{word[:size]}" for size in _SIZES]
    ends = [f"{size}>{word[-size:]}" for size in _SIZES]
    return [*starts, f"<{shape}", *ends, f">{shape}", f"#{min(len(word), 6)}"]


@dataclass
class Words:
    """The words of a batch's texts, and the way from tokens to words and back.

    `starts` `(B, T)` is True at the first token of each word, of compact texts; `places` `(B, T)`
    is the number of each token's word, W at padding; `mask` `(B, W)` is True at words.
    """

    order: TokenOrder
    starts: Tensor
    places: Tensor
    mask: Tensor

    @classmethod
    def find(cls, mask: Tensor, kinds: Tensor) -> "Words":
        """Find the words of texts from the mask and the kinds of their tokens, both `(B, T)`."""
        order = TokenOrder(mask)
        kinds = order.compact(kinds).T
        valid = order.valid.T
        starts = kinds > 0  # the first tokens of words
        starts[:, 1:] &= kinds[:, :-1] != MARK  # a mark belongs to the word after it
        starts[:, :1] = True
        starts &= valid

        counts = starts.sum(dim=1)
        count = starts.shape[1] if torch.compiler.is_exporting() else max(int(counts.max()), 1)
        places = (starts.cumsum(dim=1) - 1).masked_fill(~valid, count)
        words = torch.arange(count, device=mask.device) < counts[:, None]
        return cls(order, starts, places, words)

    def compact(self, tokens: Tensor) -> Tensor:
        """Return `(B, T)` or `(B, T, S)` with the real tokens first."""
        return self.order.compact(tokens).transpose(0, 1)

    def take_labels(self, labels: Tensor) -> Tensor:
        """Return the labels `(B, W)` of words, those of their first tokens."""
        taken = labels.new_full(self.mask.shape, IGNORED_LABEL)
        taken[self.mask] = self.compact(labels)[self.starts]
        return taken

    def spread(self, scores: Tensor) -> Tensor:
        """Return the scores `(B, T, C)` of words `(B, W, C)` at their compact tokens."""
        places = self.places.clamp(max=self.mask.shape[1] - 1)[:, :, None]
        return scores.gather(1, places.expand(-1, -1, scores.shape[-1]))


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

    emissions: Tensor | None = None
    final_hidden_state: Tensor | None = None
    final_cell_state: Tensor | None = None
    final_conv_state: Tensor | None = None


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
        size = config.output_size
        if config.word_forms:
            size = config.num_directions * config.word_hidden_size
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
        """Resize as in transformers; a new token begins a word, and has no forms yet."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        if self.words is not None:
            for name, new in {"codes": 0, "forms": 0, "kinds": 1}.items():
                old = getattr(self.words, name)
                resized = old.new_full((embeddings.num_embeddings, *old.shape[1:]), new)
                resized[: len(old)] = old[: len(resized)]
                setattr(self.words, name, resized)
        return embeddings

    @can_return_tuple
    def forward(  # noqa: D417 - the other arguments are those of RnnModel
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
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
        if labels is not None:
            labels = labels.long().masked_fill(~mask, IGNORED_LABEL)
        words = None
        is_read = mask
        if self.words is not None:
            if input_ids is None:
                raise ValueError(
                    "a tagger with word_forms needs input_ids, whose tokens have forms"
                )
            input_ids = input_ids.masked_fill(~mask, 0)
            kinds = self.words(input_ids)
            is_read = mask & (kinds != MARK)  # the encoder does not read marks of capitals
        outputs = self.rnn(input_ids, is_read, inputs_embeds, **kwargs, return_dict=True)
        states = outputs.last_hidden_state

        if not mask.shape[1]:
            states = states.new_zeros(*mask.shape, self.classifier.in_features)
        elif self.words is not None:
            words = Words.find(mask, kinds)
            ids = words.compact(cast(Tensor, input_ids))
            states = self.words(ids, words.compact(states), words.places, words.mask)
            mask = words.mask
            labels = None if labels is None else words.take_labels(labels)
        emissions = self.classifier(self.dropout(states)) * mask[:, :, None]
        loss, logits = self._score(emissions, mask, labels, **kwargs)
        if words is not None:
            emissions = self._spread(words, emissions)
            logits = self._spread(words, logits)
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
        emissions: Tensor,
        mask: Tensor,
        labels: Tensor | None,
        **kwargs: object,
    ) -> tuple[Tensor | None, Tensor]:
        """Return the loss, None without labels, and the logits `(B, T, C)`."""
        loss = None
        if self.crf is None or not mask.shape[1]:
            if labels is not None:
                loss = self.loss_function(
                    logits=emissions, labels=labels, config=self.config, **kwargs
                )
            return loss, emissions

        order = TokenOrder(mask)
        tags = None if labels is None else order.compact(labels)
        names = [] if self.training else list(map(self.config.id2label.get, range(self.num_labels)))
        # one call, as hooks of offloading need it
        losses, best = self.crf(order.compact(emissions).float(), order.valid, tags, names)
        if labels is not None:
            count = kwargs.get("num_items_in_batch")
            if count is None:
                count = (labels >= 0).sum().clamp(min=1)
            loss = losses.sum() / count
        return loss, emissions if best is None else order.restore(best).to(emissions.dtype)

    def _spread(self, words: Words, scores: Tensor) -> Tensor:
        """Return scores `(B, W, C)` of words at their tokens: after a first B-X these have I-X."""
        scores = words.spread(scores)
        further = scores.clone()
        for name, begin in self.config.label2id.items():
            inside = self.config.label2id.get(f"I-{name[2:]}") if name.startswith("B-") else None
            if inside is not None:
                pair = scores[..., [begin, inside]]
                further[..., begin] = pair.amin(dim=-1)
                further[..., inside] = pair.amax(dim=-1)
        scores = torch.where(words.starts[:, :, None], scores, further)
        return words.order.restore(scores.transpose(0, 1))
