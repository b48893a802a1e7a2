"""The recurrent encoder and the text classifier on top of it, as transformers models.

Padding never changes a number: a text has the same logits alone, in any batch, padded left or right
and by any amount. A mask with holes means the text without the masked tokens.

Legend: B batch, T time, E embedding, H hidden per direction, D directions, L layers, V vocabulary,
C classes, S states, R residual stream, K kernel of the convolution.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .blocks_rnn import LONGEST_MEMORY, Dropout, ResidualBlock, ShortConvolution, TokenProjection
from .cells_rnn import CELLS, RecurrentCell, RnnLayer, TokenOrder
from .configuration_rnn import RnnConfig
from .ngrams_rnn import NgramScores
from .pooling_rnn import find_pooler

PREFIXES = 2  # places in a text where a streaming model learns too
PREFIX_WEIGHT = 0.25  # their share of the loss


@dataclass
class RnnModelOutput(BaseModelOutput):
    """Output of [`RnnModel`].

    Args:
        last_hidden_state (`(B, T, S)`): States of the last layer, zero where the mask is zero. S is
            D * H; for residual blocks it is the width R of their stream, which is normalised.
        hidden_states (`tuple` of 1 + L tensors): With `output_hidden_states`: the inputs of the
            first layer, which are the token vectors `(B, T, E)`, or for residual blocks their
            projection `(B, T, R)`; then the states `(B, T, S)` of each layer, `last_hidden_state`
            last.
        final_hidden_state (`(L * D, B, H)`): With `output_final_states`: h_n, after the last token
            read.
        final_cell_state (`(L * D, B, H)`): With `output_final_states`: c_n of an LSTM.
        final_conv_state (`(L, B, K - 1, R)`): With `output_final_states`: the last inputs of the
            convolutions of residual blocks in one direction.
    """

    final_hidden_state: Tensor | None = None
    final_cell_state: Tensor | None = None
    final_conv_state: Tensor | None = None


@dataclass
class RnnSequenceClassifierOutput(SequenceClassifierOutput):
    """Output of [`RnnForSequenceClassification`]; the states are those of [`RnnModelOutput`].

    Args:
        loss (scalar): Only with labels.
        logits (`(B, C)`): Scores before softmax (before sigmoid for multi-label; the value itself
            for regression).
        pooling_weights (`(B, T)`): Weight of each token, summing to 1 per text (0 for a text
            without tokens); only for a pooling that weighs tokens.
        final_pooling_state (`(B, 1 + P)`): With `output_final_states` in one direction: the number
            of tokens read and their pooled vector, for a call with the tokens that follow.
        prefix_logits (`(B, K, C)`): While a streaming model trains: the logits after K random
            shares of each text.
    """

    pooling_weights: Tensor | None = None
    final_hidden_state: Tensor | None = None
    final_cell_state: Tensor | None = None
    final_conv_state: Tensor | None = None
    final_pooling_state: Tensor | None = None
    prefix_logits: Tensor | None = None


def list_sentence_modules(*further: str) -> list[dict[str, object]]:
    """Return `modules.json` of sentence-transformers: states, their mean, and further modules.

    Without this file it takes `hidden_size`, the units per direction, for the width of the states.
    """
    modules = []
    for number, name in enumerate(["Transformer", "Pooling", *further]):
        kind = f"sentence_transformers.models.{name}"
        path = f"{number}_{name}" if number else ""
        modules.append({"idx": number, "name": f"{number}", "path": path, "type": kind})
    return modules


# with the classes that other programs look for, whatever class is saved
_AUTO_CLASSES = {
    "AutoModel": "RnnModel",
    "AutoModelForSequenceClassification": "RnnForSequenceClassification",
}


class StackedLayer(GradientCheckpointingLayer, RnnLayer):
    """A recurrent layer that the model may run again in backward, to save memory."""


class StackedBlock(GradientCheckpointingLayer, ResidualBlock):
    """A residual block that the model may run again in backward, to save memory."""


class RnnPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving, common to all models of this package."""

    config_class = RnnConfig
    base_model_prefix = "rnn"
    main_input_name = "input_ids"
    _input_embed_layer = "embedding"
    _no_split_modules = ["RnnModel"]  # its layers exchange more than tensors
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise cells and linear layers as torch does, and the embedding normally.

        In residual blocks, units start with memories of different lengths, convolutions as the
        identity, and the last layer of each branch is scaled with depth.
        """
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.embedding_initializer_range)
            # a slice loses the flag that makes `init` skip loaded weights
            is_loaded = getattr(module.weight, "_is_hf_initialized", False)
            if module.padding_idx is not None and not is_loaded:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Linear):
            self._init_uniformly(module, module.in_features)
        elif isinstance(module, RecurrentCell):
            self._init_uniformly(module, self.config.hidden_size)
            if self.config.block_type == "residual":
                module.spread_memory(LONGEST_MEMORY)
        elif isinstance(module, NgramScores):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ShortConvolution):
            init.copy_(module.weight, module.identity())

    def _init_uniformly(self, module: nn.Module, size: int) -> None:
        bound = size**-0.5 * getattr(module, "init_scale", 1.0)
        for parameter in module.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> Any:
        """Load as in transformers, and freeze the embedding again, which loading forgets."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.get_input_embeddings().weight.requires_grad_(not model.config.freeze_embedding)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *args: object,
        weights_dtype: str | None = None,
        **kwargs: object,
    ) -> None:
        """Save as in transformers, with the modelling files: the folder loads without this package.

        `weights_dtype` (`float32`, `float16` or `bfloat16`) is how weights are stored; `float8` is
        bfloat16 with the token table in float8. None stores them as they are, except a frozen table
        whose numbers float8 or bfloat16 holds exactly, as those of `multilingual` and `english`: a
        quarter or half of the bytes. `config.json` keeps the dtype of the model, which loading
        restores.
        """
        if weights_dtype is not None or self.config.freeze_embedding:
            state_dict = self.state_dict() if state_dict is None else state_dict
            state_dict = self._shorten(state_dict, weights_dtype)
        auto_map = {"AutoConfig": "configuration_rnn.RnnConfig"}
        package, _, module = type(self).__module__.rpartition(".")
        if package == __name__.rpartition(".")[0]:  # the code of a subclass may be elsewhere
            for auto_class, model in _AUTO_CLASSES.items():
                auto_map[auto_class] = f"modeling_rnn.{model}"
            auto_map[str(self._auto_class)] = f"{module}.{type(self).__name__}"
        self.config.auto_map = auto_map
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def _shorten(
        self, weights: Mapping[str, Tensor], weights_dtype: str | None
    ) -> dict[str, Tensor]:
        """Return weights as [`save_pretrained`] stores them."""
        stored = dict(weights)
        for name, weight in weights.items():
            is_table = name.endswith(f"{self._input_embed_layer}.weight")
            if weights_dtype is None:
                stored[name] = _shorten_exactly(weight) if is_table else weight
            elif weight.is_floating_point():
                dtype = weights_dtype
                if weights_dtype == "float8":
                    dtype = "float8_e4m3fn" if is_table else "bfloat16"
                stored[name] = weight.to(getattr(torch, dtype))
                if not stored[name].float().isfinite().all():
                    raise ValueError(
                        f"{name} has numbers that {weights_dtype} does not hold: "
                        "store another dtype"
                    )
        return stored


def _shorten_exactly(weight: Tensor) -> Tensor:
    """Return a weight in the shortest dtype that holds its numbers."""
    for dtype in (torch.float8_e4m3fn, torch.bfloat16):
        short = weight.to(dtype)
        if torch.equal(short.to(weight.dtype), weight):
            return short
    return weight


class RnnModel(RnnPreTrainedModel):
    """Embedding, and stacked layers or residual blocks: token ids to one state per token."""

    _auto_class = "AutoModel"

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        # a head whose last layer reads something else than the states sets this, so that
        # `last_hidden_state` is that
        self.finish_states: Callable[[Tensor], Tensor] | None = None
        self.embedding = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.is_residual = config.block_type == "residual"
        layers = range(config.num_hidden_layers)
        if self.is_residual:  # dropout is in the projection and in the blocks
            self.embedding_dropout = Dropout(0.0)
            self.hidden_dropout = Dropout(0.0)
            self.projection = TokenProjection(config)
            self.layers = nn.ModuleList(StackedBlock(config) for _ in layers)
            self.norm = nn.LayerNorm(config.stream_size, eps=config.layer_norm_eps)
        else:
            self.embedding_dropout = Dropout(config.embedding_dropout)
            self.hidden_dropout = Dropout(config.hidden_dropout)
            sizes = [config.output_size if layer else config.embedding_size for layer in layers]
            self.layers = nn.ModuleList(StackedLayer(config, size) for size in sizes)
        self.post_init()
        self.embedding.weight.requires_grad_(not config.freeze_embedding)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        initial_hidden_state: Tensor | None = None,
        initial_cell_state: Tensor | None = None,
        output_final_states: bool = False,
        output_hidden_states: bool | None = None,
        initial_conv_state: Tensor | None = None,
        **kwargs: object,
    ) -> RnnModelOutput:
        """Encode a batch of texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): Token ids; any at masked places.
            attention_mask (`(B, T)`, *optional*): 1 at tokens to read, 0 elsewhere, in any pattern.
                Default: all tokens other than `pad_token_id` (all, for `inputs_embeds`).
            inputs_embeds (`(B, T, E)`, *optional*): Token vectors instead of `input_ids`; word
                dropout does not apply.
            initial_hidden_state (`(L * D, B, H)`, *optional*): h_0 in torch's order; zero when
                absent.
            initial_cell_state (`(L * D, B, H)`, *optional*): c_0, for an LSTM only.
            output_final_states (`bool`): Whether to return h_n and c_n, exact after the last token
                read.
            output_hidden_states (`bool`, *optional*): Whether to return the states of every layer,
                with gradients.
            initial_conv_state (`(L, B, K - 1, R)`, *optional*): For residual blocks in one
                direction: `final_conv_state` of the tokens before these; zero when absent.
            **kwargs: Ignored, such as `token_type_ids`.

        Raises:
            ValueError: For neither or both of `input_ids` and `inputs_embeds`, and for a shape that
                does not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mask = self.read_mask(input_ids, attention_mask, inputs_embeds)
        order = TokenOrder(mask)
        starts = self._split_states(
            mask.shape[0],  # by `len`, an export would have this batch size only
            initial_hidden_state,
            initial_cell_state,
            initial_conv_state,
        )
        vectors = self._embed(input_ids, inputs_embeds, order)
        return self._run_layers(vectors, order, starts, output_final_states, output_hidden_states)

    def _run_layers(
        self,
        states: Tensor,
        order: TokenOrder,
        starts: Iterable[Sequence[object]],
        output_final_states: bool,
        output_hidden_states: bool,
    ) -> RnnModelOutput:
        """Run all layers over compact token vectors `(T, B, E)` from their initial states."""
        directions = self.config.num_directions
        shown: list[Tensor] = []
        hidden: list[Tensor | None] = []
        cell: list[Tensor | None] = []
        conv: list[Tensor | None] = []
        if self.is_residual:
            states = self.projection(states)
        for layer, start in zip(self.layers, starts, strict=True):
            if output_hidden_states:
                shown.append(order.restore(states))
                states = order.compact(shown[-1])  # gradients pass through what is shown
            if hidden:
                states = self.hidden_dropout(states)
            states, *final = layer(states, order, *start, output_final_states)
            hidden += final[:directions]
            cell += final[directions : 2 * directions]
            conv += final[2 * directions :]

        if self.is_residual:
            states = self.norm(states)
        states = order.restore(states)
        if self.finish_states is not None:
            states = self.finish_states(states)
        return RnnModelOutput(
            last_hidden_state=states,
            hidden_states=(*shown, states) if output_hidden_states else None,
            final_hidden_state=_stack(hidden),
            final_cell_state=_stack(cell),
            final_conv_state=_stack(conv),
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as in transformers, and for sentence-transformers: a text is its states' mean."""
        super().save_pretrained(save_directory, *args, **kwargs)
        width = self.config.output_size
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        files = {"modules.json": list_sentence_modules(), "1_Pooling/config.json": pooling}
        for name, content in files.items():
            path = Path(save_directory, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def read_mask(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Return the mask `(B, T)` of the tokens to read, as bool; see [`RnnModel.forward`]."""
        tokens = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        if tokens is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("give either input_ids or inputs_embeds")
        shape = tuple(tokens.shape)
        if len(shape) != 2:
            raise ValueError(f"input_ids must be of shape (batch, time); found {shape}")
        if attention_mask is not None:
            if attention_mask.shape != shape:
                raise ValueError(
                    f"attention_mask must be of shape {shape}; found {tuple(attention_mask.shape)}"
                )
            return attention_mask if attention_mask.dtype == torch.bool else attention_mask != 0
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        return torch.ones(shape, dtype=torch.bool, device=tokens.device)

    def _embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, order: TokenOrder
    ) -> Tensor:
        """Return compact token vectors (T, B, E), zero at padding, after dropout."""
        if input_ids is None:
            vectors = order.compact(cast(Tensor, inputs_embeds))
            if not order.is_full:
                vectors = vectors.masked_fill(~order.valid[:, :, None], 0)
            return self.embedding_dropout(vectors)
        input_ids = input_ids.masked_fill(~order.mask, self.config.pad_token_id or 0)
        vectors = order.compact(self.embedding(input_ids))
        # per word type, as in Gal and Ghahramani 2016, section 4
        if self.training and self.config.word_dropout > 0:
            ones = vectors.new_ones(self.config.vocab_size)
            factors = nn.functional.dropout(ones, self.config.word_dropout)
            vectors = vectors * factors[order.compact(input_ids)][..., None]
        return self.embedding_dropout(vectors)

    def _split_states(
        self, batch: int, hidden: Tensor | None, cell: Tensor | None, conv: Tensor | None
    ) -> Iterable[Sequence[object]]:
        """Return the arguments of each layer: h_0 and c_0 by direction, and of a block `conv_0`."""
        if cell is not None and not CELLS[self.config.cell_type].has_cell_state:
            raise ValueError(
                "initial_cell_state is for cells like 'lstm'; "
                f"found cell_type={self.config.cell_type!r}"
            )
        if conv is not None and not self.is_residual:
            raise ValueError("initial_conv_state is for block_type='residual' in one direction")
        parts = [
            self._split_state("initial_hidden_state", hidden, batch),
            self._split_state("initial_cell_state", cell, batch),
        ]
        if self.is_residual:
            parts.append([None] * self.config.num_hidden_layers if conv is None else conv)
        return zip(*parts, strict=True)

    def _split_state(self, name: str, state: Tensor | None, batch: int) -> Iterable[object]:
        """Split (L * D, B, H) into L lists of D states (B, H), or return lists of None."""
        layers = self.config.num_hidden_layers
        directions = self.config.num_directions
        if state is None:
            return [[None] * directions] * layers
        expected = (layers * directions, batch, self.config.hidden_size)
        if state.shape != expected:
            found = tuple(state.shape)
            raise ValueError(f"{name} must be of shape (L * D, B, H) = {expected}; found {found}")
        return state.view(layers, directions, *state.shape[1:])


def _stack(states: list[Any]) -> Tensor | None:
    """Return the final states of all layers as one tensor, or None."""
    return torch.stack(states) if states and states[0] is not None else None


def _fill_empty(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return states and mask; a batch without any token gets a place, which poolings need."""
    if mask.shape[1]:
        return states, mask
    return nn.functional.pad(states, (0, 0, 0, 1)), nn.functional.pad(mask, (0, 1))


class RnnForSequenceClassification(RnnPreTrainedModel):
    """[`RnnModel`], pooling over the tokens, and a linear layer: token ids to logits.

    `config.problem_type` selects the loss as in transformers: cross-entropy
    (`"single_label_classification"`), binary cross-entropy per label
    (`"multi_label_classification"`) or mean squared error (`"regression"`).
    """

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.has_pairs = config.sep_token_id is not None
        self.rnn = RnnModel(config)
        self.pooler: Any = find_pooler(config)(config)
        self.activation = ACT2FN[config.classifier_activation]
        self.dropout = Dropout(config.classifier_dropout)
        size = self.pooler.output_size
        self.classifier = nn.Linear(4 * size if self.has_pairs else size, config.num_labels)
        self.ngrams: NgramScores | None = None
        if config.ngram_rows:
            self.ngrams = NgramScores(config.ngram_rows, config.num_labels)
        # transformers' default depends on the class's name
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """`bool`: Whether the loss uses `num_items_in_batch`; else the Trainer averages parts."""
        return self.config.num_labels > 1 and self.config.problem_type != "regression"

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_final_states: bool = False,
        initial_pooling_state: Tensor | None = None,
        **kwargs: object,
    ) -> RnnSequenceClassifierOutput:
        """Classify a batch of texts. A text without tokens has the answer of a zero pooled vector.

        With `config.sep_token_id` a row is a pair of texts around that id. Each is read alone;
        their pooled vectors u and v become u, v, |u - v| and u * v, and states are those of the
        second text.

        A model in one direction reads a text in pieces: the final states of a piece,
        `final_pooling_state` included, are the initial ones of the next, and the logits are those
        of the text so far.

        Arguments are those of [`RnnModel.forward`], and `labels`: class ids `(B,)`; for multi-label
        0/1 floats `(B, C)`; for regression floats. The loss gets the others too, such as the
        Trainer's `num_items_in_batch`.
        """
        mask = self.rnn.read_mask(input_ids, attention_mask, inputs_embeds)
        options = {**kwargs, "output_final_states": output_final_states, "return_dict": True}
        carried = None
        prefix_logits = None
        if self.has_pairs:
            outputs, pooled, weights = self._read_pairs(input_ids, mask, options)
        else:
            outputs = self.rnn(input_ids, mask, inputs_embeds, **options)
            pooled, weights = self._pool(outputs.last_hidden_state, mask)
            is_piece = output_final_states and not self.config.bidirectional
            if weights is None and (is_piece or initial_pooling_state is not None):
                pooled, carried = self.pooler.carry(pooled, mask, initial_pooling_state)
        if self.training and self.config.streaming:
            prefix_logits = self._read_prefixes(outputs.last_hidden_state, mask)

        logits = self._classify(pooled)
        if self.ngrams is not None:
            if input_ids is None:
                raise ValueError("a classifier with n-grams needs input_ids")
            logits = logits + self.ngrams(input_ids, mask)
        if self.config.target_scale is not None:  # in the unit of the data
            scale = logits.new_tensor(self.config.target_scale)
            logits = logits * scale + logits.new_tensor(self.config.target_mean)
        return RnnSequenceClassifierOutput(
            loss=self._measure_losses(logits, prefix_logits, labels, **kwargs),
            logits=logits,
            hidden_states=outputs.hidden_states,
            pooling_weights=weights,
            final_hidden_state=outputs.final_hidden_state,
            final_cell_state=outputs.final_cell_state,
            final_conv_state=outputs.final_conv_state,
            final_pooling_state=carried,
            prefix_logits=prefix_logits,
        )

    def pool(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return what the last layer reads of a batch of texts, `(B, P)`."""
        mask = self.rnn.read_mask(input_ids, attention_mask, None)
        if self.has_pairs:
            _, pooled, _ = self._read_pairs(input_ids, mask, {"return_dict": True})
        else:
            states = self.rnn(input_ids, mask, return_dict=True).last_hidden_state
            pooled, _ = self._pool(states, mask)
        return self.dropout(self.activation(pooled))

    def _read_pairs(
        self, input_ids: Tensor | None, mask: Tensor, options: dict[str, object]
    ) -> tuple[RnnModelOutput, Tensor, Tensor | None]:
        """Return the outputs for the second texts, both texts' vectors, and weights of tokens."""
        first, second = self._split_pair(input_ids, mask)
        outputs = self.rnn(input_ids, first, **options)
        u, first_weights = self._pool(outputs.last_hidden_state, first)
        outputs = self.rnn(input_ids, second, **options)
        v, second_weights = self._pool(outputs.last_hidden_state, second)
        pooled = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
        if first_weights is None or second_weights is None:
            return outputs, pooled, None
        return outputs, pooled, first_weights + second_weights

    def _split_pair(self, input_ids: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks of the tokens before and after the first separator, or the end."""
        if input_ids is None:
            raise ValueError(
                "a model of text pairs needs input_ids, whose separator divides the texts"
            )
        separators = (input_ids == self.config.sep_token_id) & mask
        passed = separators.long().cumsum(dim=1)
        return mask & (passed == 0), mask & (passed > 0) & ~(separators & (passed == 1))

    def _pool(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pooled vectors `(B, P)`, and any weights of tokens `(B, T)`."""
        pooled, weights = self.pooler(*_fill_empty(states, mask))
        return pooled, None if weights is None else weights[:, : mask.shape[1]]

    def _read_prefixes(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the logits `(B, K, C)` after random shares of the tokens of each text."""
        lengths = mask.sum(dim=1, keepdim=True)
        numbers = mask.cumsum(dim=1)
        ends = (torch.rand(len(mask), PREFIXES, device=mask.device) * lengths).ceil().clamp(min=1)
        vectors = [self._pool(states, mask & (numbers <= end[:, None]))[0] for end in ends.t()]
        return self._classify(torch.stack(vectors, dim=1))

    def _classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.activation(pooled)))

    def _measure_losses(
        self, logits: Tensor, prefix_logits: Tensor | None, labels: Tensor | None, **kwargs: object
    ) -> Tensor | None:
        """Return the loss of texts, mixed with that of their beginnings; None without labels."""
        if labels is None:
            return None
        loss = self.measure_loss(logits, labels, **kwargs)
        if prefix_logits is None:
            return loss
        losses = [self.measure_loss(prefix, labels, **kwargs) for prefix in prefix_logits.unbind(1)]
        return (1 - PREFIX_WEIGHT) * loss + PREFIX_WEIGHT * torch.stack(losses).mean()

    def measure_loss(self, logits: Tensor, labels: Tensor, **kwargs: object) -> Tensor:
        """Return the loss of `config.problem_type`; of standardised numbers while training."""
        labels = labels if labels.is_floating_point() else labels.long()
        if self.config.target_scale is not None:
            scale = logits.new_tensor(self.config.target_scale)
            logits = logits / scale  # the means cancel
            labels = labels.to(scale) / scale
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        count = kwargs.get("num_items_in_batch")
        if count is not None and self.config.problem_type == "multi_label_classification":
            loss = loss * labels.numel() / count  # as transformers' cross-entropy does
        return loss

    @torch.no_grad()
    def fold_targets(self) -> None:
        """Move mean and deviation of the numbers into the last layer; the answers stay the same."""
        if self.config.target_scale is None:
            return
        scale = torch.tensor(self.config.target_scale, dtype=torch.float64)
        mean = torch.tensor(self.config.target_mean, dtype=torch.float64)
        layer = self.classifier
        layer.weight.copy_(layer.weight.cpu().double() * scale[:, None])
        layer.bias.copy_(layer.bias.cpu().double() * scale + mean)
        if self.ngrams is not None:
            self.ngrams.scale.copy_(self.ngrams.scale.cpu().double() * scale)
        self.config.target_scale = None
        self.config.target_mean = None

    def attach_ngrams(self, weights: Mapping[str, Tensor]) -> None:
        """Add a linear part over n-grams, or replace it; `weights` are those of [`NgramScores`]."""
        rows, labels = weights["weight"].shape
        self.config.ngram_rows = rows
        self.ngrams = NgramScores(rows, labels).to(self.classifier.weight.device)
        self.ngrams.load_state_dict(weights)
