"""The recurrent encoder and the text classifier on top of it, as transformers models.

Padding never changes a number: a text has the same logits alone, in any batch, padded left or right
and by any amount. A mask with holes means the text without the masked tokens.

Legend: B batch, T time, E embedding, H hidden per direction, D directions, L layers, V vocabulary,
C classes, S states, R residual stream, K kernel of the convolution.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .blocks_rnn import LONGEST_MEMORY, Dropout, ResidualBlock, ShortConvolution, TokenProjection
from .cells_rnn import CELLS, CompactTexts, RecurrentCell, RnnLayer
from .configuration_rnn import RnnConfig
from .ngrams_rnn import NgramScores
from .pooling_rnn import find_pooler

# places in a text where a streaming model learns too, and their share of the loss
PREFIXES, PREFIX_WEIGHT = 2, 0.25


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


def list_sentence_modules(*further: str) -> list[dict[str, Any]]:
    """Return `modules.json` of sentence-transformers: states, their mean, and further modules.

    Without this file it takes `hidden_size`, the units per direction, for the width of the states.
    """
    modules = enumerate(["Transformer", "Pooling", *further])
    return [
        {
            "idx": n,
            "name": f"{n}",
            "path": f"{n}_{name}" if n else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for n, name in modules
    ]


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
        """Initialise cells and linear layers as torch does, and the embedding from a normal distribution.

        In residual blocks, units start with memories of different lengths, convolutions as the
        identity, and the last layer of each branch is scaled with depth.
        """
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.embedding_initializer_range)
            # a slice loses the flag that makes `init` skip loaded weights
            if module.padding_idx is not None and not getattr(
                module.weight, "_is_hf_initialized", False
            ):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, RecurrentCell | nn.Linear):
            size = module.in_features if isinstance(module, nn.Linear) else self.config.hidden_size
            bound = size**-0.5 * getattr(module, "init_scale", 1.0)
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)
            if isinstance(module, RecurrentCell) and self.config.block_type == "residual":
                module.spread_memory(LONGEST_MEMORY)
        elif isinstance(module, NgramScores):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ShortConvolution):
            init.copy_(module.weight, module.identity())

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
        """Save as in transformers, with the modelling files, so that the folder also loads without this package.

        `weights_dtype` (`float32`, `float16` or `bfloat16`) is how weights are stored; `float8` is
        bfloat16 with the token table in float8. None stores them as they are, except a frozen table
        whose numbers float8 or bfloat16 holds exactly, as those of `multilingual` and `english`: a
        quarter or half of the bytes. `config.json` keeps the dtype of the model, which loading
        restores.
        """
        if weights_dtype is not None or self.config.freeze_embedding:
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            for name, weight in state_dict.items():
                is_table = name.endswith(f"{self._input_embed_layer}.weight")
                if weights_dtype is not None and weight.is_floating_point():
                    short = torch.float8_e4m3fn if is_table else torch.bfloat16
                    stored = weight.to(
                        short if weights_dtype == "float8" else getattr(torch, weights_dtype)
                    )
                    if not stored.float().isfinite().all():
                        raise ValueError(
                            f"{name} has numbers that {weights_dtype} does not hold: store another dtype"
                        )
                    state_dict[name] = stored
                for dtype in (
                    (torch.bfloat16, torch.float8_e4m3fn)
                    if is_table and weights_dtype is None
                    else ()
                ):
                    if torch.equal(weight.to(dtype).to(weight.dtype), weight):
                        state_dict[name] = weight.to(dtype)
        auto_map = {"AutoConfig": "configuration_rnn.RnnConfig"}
        package, _, module = type(self).__module__.rpartition(".")
        if package == __name__.rpartition(".")[0]:  # the code of a subclass may be elsewhere
            auto_map["AutoModel"] = "modeling_rnn.RnnModel"
            auto_map["AutoModelForSequenceClassification"] = (
                "modeling_rnn.RnnForSequenceClassification"
            )
            auto_map[str(self._auto_class)] = f"{module}.{type(self).__name__}"
        self.config.auto_map = auto_map
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)


class RnnModel(RnnPreTrainedModel):
    """Embedding, and stacked recurrent layers or residual blocks: token ids to one state per token."""

    _auto_class = "AutoModel"

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        # a head whose last layer reads something else than the states sets this, so that
        # `last_hidden_state` is that
        self.finish_states: Callable[[Tensor], Tensor] | None = None
        self.embedding = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        # then dropout is in the projection and in the blocks
        self.is_residual = config.block_type == "residual"
        self.embedding_dropout = Dropout(0.0 if self.is_residual else config.embedding_dropout)
        self.hidden_dropout = Dropout(0.0 if self.is_residual else config.hidden_dropout)
        if self.is_residual:
            self.projection = TokenProjection(config)
            self.layers = nn.ModuleList(
                StackedBlock(config) for _ in range(config.num_hidden_layers)
            )
            self.norm = nn.LayerNorm(config.stream_size, eps=config.layer_norm_eps)
        else:
            input_sizes = [config.embedding_size] + [config.output_size] * (
                config.num_hidden_layers - 1
            )
            self.layers = nn.ModuleList(StackedLayer(config, size) for size in input_sizes)
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
        batch, time = mask.shape
        if time == 0:  # torch's kernels need a step: read one masked token
            mask = nn.functional.pad(mask, (0, 1))
            input_ids = None if input_ids is None else nn.functional.pad(input_ids, (0, 1))
            inputs_embeds = (
                None if inputs_embeds is None else nn.functional.pad(inputs_embeds, (0, 0, 0, 1))
            )
        h_0 = self._split_state("initial_hidden_state", initial_hidden_state, batch)
        c_0 = self._split_state("initial_cell_state", initial_cell_state, batch)
        if initial_conv_state is not None and not self.is_residual:
            raise ValueError("initial_conv_state is for block_type='residual' in one direction")

        texts, directions = CompactTexts(mask), self.config.num_directions
        states = self._embed(input_ids, inputs_embeds, texts)  # compact
        states = self.projection(states) if self.is_residual else states
        shown: list[Any] = []
        hidden: list[Any] = []
        cell: list[Any] = []
        conv: list[Any] = []
        for number, layer in enumerate(self.layers):
            if output_hidden_states:
                shown.append(texts.restore(states))
                states = texts.compact(shown[-1])  # gradients pass through what is shown
            states = self.hidden_dropout(states) if number > 0 else states
            arguments = [states, texts, h_0[number], c_0[number]]
            if self.is_residual:
                arguments.append(None if initial_conv_state is None else initial_conv_state[number])
            results = layer(*arguments, output_final_states)
            states = results[0]
            hidden += results[-2 * directions : -directions]
            cell += results[-directions:]
            conv.append(results[1] if self.is_residual else None)
        shown.append(texts.restore(self.norm(states) if self.is_residual else states))
        if time == 0:
            shown = [states[:, :0] for states in shown]
        if self.finish_states is not None:
            shown[-1] = self.finish_states(shown[-1])
        return RnnModelOutput(
            last_hidden_state=shown[-1],
            hidden_states=tuple(shown) if output_hidden_states else None,
            final_hidden_state=torch.stack(hidden) if output_final_states else None,
            final_cell_state=None if cell[0] is None else torch.stack(cell),
            final_conv_state=None if conv[0] is None else torch.stack(conv),
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as in transformers, and as a model of sentence-transformers: a text is the mean of its states."""
        super().save_pretrained(save_directory, *args, **kwargs)
        pooling = {
            "word_embedding_dimension": self.config.output_size,
            "pooling_mode_mean_tokens": True,
        }
        for name, content in (
            ("modules.json", list_sentence_modules()),
            ("1_Pooling/config.json", pooling),
        ):
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
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, texts: CompactTexts
    ) -> Tensor:
        """Return compact token vectors (T, B, E), zero at padding, with word and embedding dropout."""
        if inputs_embeds is not None:
            vectors = texts.compact(inputs_embeds)
            vectors = vectors if texts.is_full else vectors.masked_fill(~texts.valid[:, :, None], 0)
            return self.embedding_dropout(vectors)
        assert input_ids is not None  # see `read_mask`
        input_ids = input_ids.masked_fill(~texts.mask, self.config.pad_token_id or 0)
        vectors = texts.compact(self.embedding(input_ids))
        # per word type, as in Gal and Ghahramani 2016, section 4
        if self.training and self.config.word_dropout > 0:
            factors = nn.functional.dropout(
                vectors.new_ones(self.config.vocab_size), self.config.word_dropout
            )
            vectors = vectors * factors[texts.compact(input_ids)][..., None]
        return self.embedding_dropout(vectors)

    def _split_state(self, name: str, state: Tensor | None, batch: int) -> Any:
        """Split (L * D, B, H) into L lists of D states (B, H), or return lists of None."""
        layers, directions = self.config.num_hidden_layers, self.config.num_directions
        if state is None:
            return [[None] * directions] * layers
        if name == "initial_cell_state" and not CELLS[self.config.cell_type].has_cell_state:
            raise ValueError(
                f"initial_cell_state is for cells like 'lstm'; found cell_type={self.config.cell_type!r}"
            )
        expected = (layers * directions, batch, self.config.hidden_size)
        if state.shape != expected:
            raise ValueError(
                f"{name} must be of shape (L * D, B, H) = {expected}; found {tuple(state.shape)}"
            )
        return state.view(layers, directions, *state.shape[1:])


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
        self.num_labels, self.has_pairs = config.num_labels, config.sep_token_id is not None
        self.rnn = RnnModel(config)
        self.pooler: Any = find_pooler(config)(config)
        self.activation = ACT2FN[config.classifier_activation]
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(
            (4 if self.has_pairs else 1) * self.pooler.output_size, config.num_labels
        )
        self.ngrams: NgramScores | None = None
        if config.ngram_rows:
            self.ngrams = NgramScores(config.ngram_rows, config.num_labels)
        # transformers' default depends on the class's name
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """`bool`: Whether the loss uses `num_items_in_batch`; else the Trainer averages over accumulated parts."""
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
        **kwargs: Any,
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
        carried, prefix_logits = None, None
        if self.has_pairs:
            first, second = self._split_pair(input_ids, mask)
            outputs = self.rnn(input_ids, first, **options)
            pooled, weights = self._pool(outputs.last_hidden_state, first)
            outputs = self.rnn(input_ids, second, **options)
            other, others = self._pool(outputs.last_hidden_state, second)
            pooled = torch.cat([pooled, other, (pooled - other).abs(), pooled * other], dim=-1)
            weights = None if weights is None or others is None else weights + others
        else:
            outputs = self.rnn(input_ids, mask, inputs_embeds, **options)
            pooled, weights = self._pool(outputs.last_hidden_state, mask)
            if initial_pooling_state is not None or (
                output_final_states and not self.config.bidirectional
            ):
                if initial_pooling_state is None:
                    initial_pooling_state = pooled.new_zeros(len(pooled), 1 + pooled.shape[1])
                if weights is None:
                    states = _fill_empty(outputs.last_hidden_state, mask)
                    pooled, carried = self.pooler.carry(*states, initial_pooling_state)
            if self.training and self.config.streaming:
                prefix_logits = self._read_prefixes(outputs.last_hidden_state, mask)
        logits = self.classifier(self.dropout(self.activation(pooled)))
        if self.ngrams is not None:
            if input_ids is None:
                raise ValueError("a classifier with n-grams needs input_ids")
            logits = logits + self.ngrams(input_ids, mask)
        if self.config.target_scale is not None:
            scale, mean = map(
                logits.new_tensor, (self.config.target_scale, self.config.target_mean)
            )
            logits = logits * scale + mean
        loss = None if labels is None else self.measure_loss(logits, labels, **kwargs)
        if loss is not None and labels is not None and prefix_logits is not None:
            losses = [
                self.measure_loss(prefix, labels, **kwargs) for prefix in prefix_logits.unbind(1)
            ]
            loss = (1 - PREFIX_WEIGHT) * loss + PREFIX_WEIGHT * torch.stack(losses).mean()
        return RnnSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            pooling_weights=None if weights is None else weights[:, : mask.shape[1]],
            final_hidden_state=outputs.final_hidden_state,
            final_cell_state=outputs.final_cell_state,
            final_conv_state=outputs.final_conv_state,
            final_pooling_state=carried,
            prefix_logits=prefix_logits,
        )

    def _read_prefixes(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the logits `(B, K, C)` after random shares of the tokens of each text."""
        number, order = mask.sum(dim=1, keepdim=True), mask.cumsum(dim=1)
        ends = (torch.rand(len(mask), PREFIXES, device=mask.device) * number).ceil().clamp(min=1)
        vectors = [self._pool(states, mask & (order <= end[:, None]))[0] for end in ends.unbind(1)]
        return self.classifier(self.dropout(self.activation(torch.stack(vectors, dim=1))))

    def _pool(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.pooler(*_fill_empty(states, mask))

    def _split_pair(self, input_ids: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks of the tokens before and after the first separator; without one, all are before."""
        if input_ids is None:
            raise ValueError(
                "a model of text pairs needs input_ids, whose separator divides the texts"
            )
        separators = (input_ids == self.config.sep_token_id) & mask
        passed = separators.long().cumsum(dim=1)
        return mask & (passed == 0), mask & (passed > 0) & ~(separators & (passed == 1))

    def measure_loss(self, logits: Tensor, labels: Tensor, **kwargs: object) -> Tensor:
        """Return the loss of `config.problem_type`; while training on numbers, of the standardised ones."""
        labels = labels if labels.is_floating_point() else labels.long()
        if self.config.target_scale is not None:
            scale = logits.new_tensor(self.config.target_scale)
            logits, labels = logits / scale, labels.to(scale) / scale  # the means cancel
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        count = kwargs.get("num_items_in_batch")
        if count is not None and self.config.problem_type == "multi_label_classification":
            loss = loss * labels.numel() / count  # as transformers' cross-entropy does
        return loss

    @torch.no_grad()
    def fold_targets(self) -> None:
        """Move mean and deviation of the numbers into the last layer, after training; the answers stay the same."""
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
