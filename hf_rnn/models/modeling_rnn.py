"""The recurrent encoder and the text classifier on top of it, as transformers models.

The contract: padding never changes a number. A text has the same logits alone, in any batch, padded left or right or
by how much; a mask with holes means the text without the masked tokens. This file travels with every checkpoint.

Legend: B batch, T time, E embedding, H hidden per direction, D directions, L layers, V vocabulary, C classes.
"""

import inspect
import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import can_return_tuple

from .cells_rnn import CompactTexts, RnnLayer
from .configuration_rnn import RnnConfig
from .cpu_kernels_rnn import distinct_pays, may_loop
from .distinct_rnn import DistinctTokens
from .min_gru_rnn import MinGru
from .outputs_rnn import EncodedTexts, RnnModelOutput, RnnSequenceClassifierOutput
from .pooling_rnn import RnnPooler
from .tutorial_rnn import read_tutorial_checkpoint

_DRAW_FOR_ALL = 1 << 12  # words of a vocabulary; up to there that is as soon done as to find those of a batch


class RnnPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving, common to all models of this package."""

    config_class = RnnConfig
    base_model_prefix = "rnn"
    main_input_name = "input_ids"
    _input_embed_layer = "embedding"
    _no_split_modules = ["RnnModel"]  # what its layers hand on is more than tensors

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start as torch starts its own modules.

        | module | weights | bias |
        |---|---|---|
        | embedding | N(0, `embedding_initializer_range`²), padding row 0 | |
        | recurrent cells | U(-k, k), k = H^-1/2 | the same |
        | linear | U(-k, k), k = fan_in^-1/2 | the same |
        """
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.embedding_initializer_range)
            # slicing loses the flag by which `init` spares loaded weights, hence the look at it here
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.RNNBase | MinGru):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a frozen embedding stays frozen (loading itself forgets `requires_grad`)."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.get_input_embeddings().weight.requires_grad_(not model.config.freeze_embedding)
        return loaded

    def set_input_embeddings(self, value: nn.Module) -> None:
        """As in transformers; the new table is frozen too where the configuration says so."""
        super().set_input_embeddings(value)
        if self.config.freeze_embedding:
            self.get_input_embeddings().weight.requires_grad_(False)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers; the padding token keeps its row.

        Raises:
            ValueError: For fewer rows than that takes.
        """
        padding = self.config.pad_token_id
        if new_num_tokens is not None and padding is not None and new_num_tokens <= padding:
            raise ValueError(f"pad_token_id is {padding}: a table of {new_num_tokens} rows has none for it")
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the modelling files go along, so that the folder also loads without this package.

        A subclass is code that stands elsewhere: its folder does not claim to hold it.
        """
        if getattr(self, "_auto_class", None) is not None:
            auto_map = {"AutoConfig": "configuration_rnn.RnnConfig"}
            if type(self).__module__ == __name__:
                auto_map["AutoModel"] = "modeling_rnn.RnnModel"
                auto_map["AutoModelForSequenceClassification"] = "modeling_rnn.RnnForSequenceClassification"
            self.config.auto_map = auto_map
        super().save_pretrained(save_directory, *args, **kwargs)


class RnnModel(RnnPreTrainedModel):
    """Embedding and stacked recurrent layers: token ids to one state a token.

    Args:
        config ([`RnnConfig`]): The model's settings.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id, sparse=config.sparse_embedding
        )
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)
        input_sizes = [config.embedding_size] + [config.output_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(RnnLayer(config, size) for size in input_sizes)
        self.post_init()
        self.embedding.weight.requires_grad_(not config.freeze_embedding)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        initial_hidden_state: torch.Tensor | None = None,
        initial_cell_state: torch.Tensor | None = None,
        output_final_states: bool = False,
        output_hidden_states: bool | None = None,
        compact: bool = False,
        **kwargs: Any,
    ) -> RnnModelOutput | EncodedTexts:
        """Encode a batch of texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): Token ids. What stands at masked places is never read.
            attention_mask (`(B, T)`, *optional*): 1 at tokens to read, 0 elsewhere, in any pattern. Absent: all tokens
                that are not `pad_token_id` (all, for `inputs_embeds`).
            inputs_embeds (`(B, T, E)`, *optional*): Token vectors in place of `input_ids`; word dropout, which needs
                to know words, does not apply.
            initial_hidden_state (`(L * D, B, H)`, *optional*): h_0 in torch's order, layer by layer; zero when absent.
            initial_cell_state (`(L * D, B, H)`, *optional*): c_0, for an LSTM only.
            output_final_states (`bool`): Whether to return h_n and c_n, each exact at the last token read.
            output_hidden_states (`bool`, *optional*): Whether to return the states of every layer, as they are in the
                graph of the gradients.
            compact (`bool`): For a head on top: return [`EncodedTexts`], whose states need no place to be pooled.
            **kwargs: What other models take and this one has no use for, such as `token_type_ids`; ignored.

        Raises:
            ValueError: When neither or both of `input_ids` and `inputs_embeds` are given, or a shape does not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mask = self.read_mask(input_ids, attention_mask, inputs_embeds)
        time = mask.shape[1]
        if time == 0:  # torch's kernels need a step: read one masked token instead
            mask = mask.new_zeros(mask.shape[0], 1)
            input_ids = None if input_ids is None else input_ids.new_zeros(mask.shape)
            inputs_embeds = (
                None if inputs_embeds is None else inputs_embeds.new_zeros(*mask.shape, inputs_embeds.shape[2])
            )
        h_0 = self._split_initial_state("initial_hidden_state", initial_hidden_state, mask.shape[0])
        c_0 = self._split_initial_state("initial_cell_state", initial_cell_state, mask.shape[0])

        texts = CompactTexts(mask)
        from_zero = initial_hidden_state is None and initial_cell_state is None
        keeps_none = not output_final_states and not output_hidden_states
        inputs: Any = self._embed(input_ids, inputs_embeds, texts, from_zero and keeps_none)  # (T, B, E)
        shown: list[torch.Tensor] = []
        if output_hidden_states:
            inputs = texts.show([inputs], shown)
        states: list[torch.Tensor] = []
        hidden, cell = [], []
        for number, layer in enumerate(self.layers):
            if number > 0:
                inputs = self.hidden_dropout(texts.join(states))
            states, layer_hidden, layer_cell = layer(inputs, texts, h_0[number], c_0[number], output_final_states)
            if output_hidden_states:
                states = [texts.show(states, shown)]
            hidden += layer_hidden
            cell += layer_cell
        hidden_states = tuple(state[:, :0] if time == 0 else state for state in shown) if shown else None
        encoded = EncodedTexts(texts, time, states, hidden_states, hidden, cell)
        if compact:
            return encoded
        return RnnModelOutput(
            last_hidden_state=encoded.last_hidden_state, hidden_states=hidden_states, **encoded.final_states()
        )

    def read_mask(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mask that the model goes by: `attention_mask` as bool `(B, T)`, or the one that the pad ids give."""
        if input_ids is not None and inputs_embeds is None:
            shape = input_ids.shape
        elif inputs_embeds is not None and input_ids is None:
            shape = inputs_embeds.shape[:-1]
        else:
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        if len(shape) != 2:
            raise ValueError(
                "input_ids must be of shape (batch, time) and inputs_embeds (batch, time, embedding_size); "
                f"found {tuple(shape)} before the embedding"
            )
        if attention_mask is not None:
            if attention_mask.shape != shape:
                raise ValueError(
                    f"attention_mask must be of shape {tuple(shape)} like the input, "
                    f"found {tuple(attention_mask.shape)}"
                )
            return attention_mask != 0
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        given: Any = inputs_embeds if input_ids is None else input_ids
        return torch.ones(shape, dtype=torch.bool, device=given.device)

    def _embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: Any, texts: CompactTexts, stateless: bool
    ) -> torch.Tensor | DistinctTokens:
        """Compact token vectors (T, B, E), zero at padding, with the dropouts that belong to words.

        Distinct tokens where the first layer takes them and gains by it; `stateless` tells that it starts from no
        state and keeps none. Hooks on the embedding see (B, T, E), each vector in the place of its token.
        """
        if input_ids is None:
            vectors = texts.compact(inputs_embeds).masked_fill(~texts.valid[:, :, None], 0)
            return self.embedding_dropout(vectors)
        ids = self._fill_padding(texts.compact(input_ids), texts.valid)
        rows = None
        if stateless and self._reads_distinct_tokens():
            distinct, places = ids.unique(return_inverse=True)
            if distinct_pays(
                self.config.cell_type,
                ids.numel(),
                distinct.numel(),
                self.config.embedding_size,
                self.config.hidden_size,
            ):
                ids, rows = distinct, places
        if self._embedding_has_hooks():
            vectors = texts.compact(self.embedding(texts.uncompact(ids)))
        else:
            vectors = self.embedding(ids)
        if self.training and self.config.word_dropout > 0:
            vectors = vectors * self._draw_kept_words(ids, vectors)[..., None]
        vectors = self.embedding_dropout(vectors)
        return vectors if rows is None else DistinctTokens(vectors, rows)

    def _fill_padding(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Ids (T, B) with the padding token at padding; without one, with an id that costs least.

        That is 0, but for a sparse gradient a token of the batch: an optimiser that remembers moves each row that the
        gradient holds, be it zero there.
        """
        if self.config.pad_token_id is None and self.config.sparse_embedding and self.training and ids.numel() > 0:
            return torch.where(valid, ids, ids.masked_fill(~valid, 0).max())
        return ids.masked_fill(~valid, self.config.pad_token_id or 0)

    def _draw_kept_words(self, ids: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Dropout's factor for each id, one draw a word type (Gal and Ghahramani 2016, section 4), shaped as the ids.

        With a large vocabulary only the words of the batch are drawn for: a step must not cost more for it. An
        accelerator draws for all, sooner than it could say how many there are, and so does a graph.
        """
        count, places = self.embedding.weight.shape[0], ids
        if count > _DRAW_FOR_ALL and ids.device.type == "cpu" and not torch.compiler.is_compiling():
            distinct, places = ids.unique(return_inverse=True)
            count = len(distinct)
        return nn.functional.dropout(like.new_ones(count), self.config.word_dropout)[places]

    def _reads_distinct_tokens(self) -> bool:
        """Whether the first layer can, in training: a token's vector must be the same at all its places."""
        weight = self.embedding.weight
        first: Any = self.layers[0]
        hooked = self._embedding_has_hooks() or any(direction.is_hooked() for direction in first.directions)
        alike = self.config.embedding_dropout == 0 and not hooked
        return self.training and alike and self.config.cell_type != "rnn_relu" and may_loop(weight)

    def _embedding_has_hooks(self) -> bool:
        """Whether what stands there may look at places: hooks do, and so may a module of another kind."""
        table: Any = self.embedding
        hooks = (table._forward_pre_hooks, table._forward_hooks, table._backward_pre_hooks, table._backward_hooks)
        return any(hooks) or type(table).forward is not nn.Embedding.forward

    def _split_initial_state(
        self, name: str, state: torch.Tensor | None, batch: int
    ) -> list[torch.Tensor] | list[None]:
        """(L * D, B, H) → L times (D, B, H)."""
        layers, directions = self.config.num_hidden_layers, self.config.num_directions
        if state is None:
            return [None] * layers
        if name == "initial_cell_state" and self.config.cell_type != "lstm":
            raise ValueError(f"initial_cell_state is for cell_type='lstm'; this model has {self.config.cell_type!r}")
        expected = (layers * directions, batch, self.config.hidden_size)
        if state.shape != expected:
            raise ValueError(
                f"{name} must be of shape (layers * directions, batch, hidden_size) = {expected}, "
                f"found {tuple(state.shape)}"
            )
        return list(state.view(layers, directions, *state.shape[1:]).unbind(0))


class RnnForSequenceClassification(RnnPreTrainedModel):
    """[`RnnModel`], pooling over the tokens, and a linear layer: token ids to logits.

    `config.problem_type` chooses the loss as in transformers: cross-entropy (`"single_label_classification"`), binary
    cross-entropy a label (`"multi_label_classification"`) or mean squared error (`"regression"`).

    Args:
        config ([`RnnConfig`]): The model's settings.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.rnn = RnnModel(config)
        self.pooler = RnnPooler(config)
        self.activation = ACT2FN[config.classifier_activation]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(self.pooler.output_size, config.num_labels)
        self.loss_type = "ForSequenceClassification"  # transformers goes by the class's name, which a subclass changes
        self.post_init()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """`bool`: Whether the loss goes by `num_items_in_batch`, the labels of a whole accumulated batch.

        The Trainer asks: where it does not, as of a regression, the Trainer takes the mean over the parts.
        """
        parameters = inspect.signature(self.forward).parameters.values()
        if all(parameter.kind != inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return False  # the forward of a subclass, to which the Trainer must not hand more than it takes
        return self.config.num_labels > 1 and self.config.problem_type != "regression"

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        initial_hidden_state: torch.Tensor | None = None,
        initial_cell_state: torch.Tensor | None = None,
        output_final_states: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> RnnSequenceClassifierOutput:
        """Classify a batch of texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): Token ids.
            attention_mask (`(B, T)`, *optional*): 1 at tokens to read; see [`RnnModel`].
            labels (*optional*): Class ids `(B,)`; for multi-label 0/1 floats `(B, C)`; for regression floats.
            inputs_embeds (`(B, T, E)`, *optional*): Token vectors in place of `input_ids`.
            initial_hidden_state (`(L * D, B, H)`, *optional*): h_0.
            initial_cell_state (`(L * D, B, H)`, *optional*): c_0 of an LSTM.
            output_final_states (`bool`): Whether to return h_n and c_n.
            output_hidden_states (`bool`, *optional*): Whether to return the states of every layer.
            **kwargs: Handed to the loss, for instance the Trainer's `num_items_in_batch`.

        A text without tokens has a defined answer: that of a zero pooled vector.
        """
        encoded = self.rnn(
            input_ids,
            attention_mask,
            inputs_embeds,
            initial_hidden_state,
            initial_cell_state,
            output_final_states,
            output_hidden_states,
            compact=True,
            return_dict=True,
        )
        states = encoded.texts.join(encoded.states).transpose(0, 1)  # (B, T, D * H), compact
        pooled, weights = self.pooler(states, encoded.texts.valid.t())
        logits = self.classifier(self.dropout(self.activation(pooled)))
        loss = None
        if labels is not None:
            labels = labels if labels.is_floating_point() else labels.long()
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
            count = kwargs.get("num_items_in_batch")
            if count is not None and self.config.problem_type == "multi_label_classification":
                loss = loss * labels.numel() / count  # cross-entropy divides by it itself
        return RnnSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            pooling_weights=None if weights is None else encoded.texts.restore_weights(weights)[:, : encoded.time],
            hidden_states=encoded.hidden_states,
            **encoded.final_states(),
        )

    @classmethod
    def from_tutorial_checkpoint(
        cls, path: str | os.PathLike, id2label: dict[int, str] | None = None, **settings: Any
    ) -> "RnnForSequenceClassification":
        """Build the model that a checkpoint of the tutorial's own training loop holds.

        The sizes and the cell are read off the weights. Of a network of two directions the last states of both are
        pooled, torch's h_n, and not what stands at the last token, where the backward one has read no other.

        Such a file carries no vocabulary: train the matching tokenizer on the texts the model was trained on,
        `train_tokenizer(texts, min_frequency=3)`, and compare its length with `model.config.vocab_size`.

        It carries no class names either, and torchtext's `LabelField` numbered the classes by their frequency in the
        training rows, not by value: on the tutorial's tweets id 0 is label 1 (neutral), id 1 is label 0, id 2 is
        label 2. Give the names in that order as `id2label`. Without it the classes are called `RANK_0` (the most
        frequent label), `RANK_1`, ..., which no integer label stands for.

        Args:
            path (`str` or `os.PathLike`): A `torch.save`d dictionary with `model_state_dict`.
            id2label (`dict[int, str]`, *optional*): Class names by id, from the most frequent training label on.
            settings: Further fields of [`RnnConfig`] that weights cannot tell, such as `cell_type="rnn_relu"` for a
                network with that nonlinearity.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When the file holds something else, or weights that `settings` have no place for; the message
                names the file and says what was found.
        """
        read, weights = read_tutorial_checkpoint(path)
        classes = read.pop("num_labels")
        if id2label or "label2id" not in settings:
            settings["id2label"] = id2label or {rank: f"RANK_{rank}" for rank in range(classes)}
        model = cls(RnnConfig(**{**read, **settings}))
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit its settings: {' '.join(str(error).split())}") from error
        return model.eval()
