"""The language model: the encoder in one direction, and a linear layer to the next token.

`generate` of transformers uses the recurrent state as its cache: a token costs one step, at any
length of the text. Padding never changes an answer: a prompt continues in a batch as it does alone.

Legend: B batch, T time, V vocabulary, L layers, H hidden, E embedding, K kernel and R stream of
residual blocks.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.generation import utils as generation
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_rnn import RnnConfig
from .modeling_rnn import RnnModel, RnnModelOutput, RnnPreTrainedModel
from .settings_rnn import IGNORED_LABEL

# The name in `generate` of the cache: it was `past_key_values` before transformers 5.24.
_CACHE = "cache" if "cache" in getattr(generation, "ALL_CACHE_NAMES", ()) else "past_key_values"
# a share of 1e-13 for padding, which is never the next token; moderate, so that means stay finite
_PAD_BIAS = -30.0
# The Trainer smooths labels of the classes that are named there one place further, as a language
# model needs it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[RnnConfig.model_type] = "RnnForCausalLM"


@dataclass(eq=False)
class RnnCache:
    """The recurrent state after the tokens read so far, of the same size for any number of them."""

    hidden: Tensor  # (L, B, H)
    cell: Tensor | None  # (L, B, H), of an LSTM
    tokens: int  # number of tokens read, with padding
    # (L, B, K - 1, R), the last inputs of the convolutions of residual blocks
    conv: Tensor | None = None

    is_compileable: ClassVar[bool] = False
    # so `generate` does not read again what the cache has read
    is_linear: ClassVar[tuple[bool]] = (False,)

    @property
    def states(self) -> dict[str, Tensor]:
        """The tensors by name, without those that the model does not have."""
        states = {"hidden": self.hidden, "cell": self.cell, "conv": self.conv}
        return {name: state for name, state in states.items() if state is not None}

    @property
    def initial_states(self) -> dict[str, object]:
        """The tensors as arguments of [`RnnModel.forward`]."""
        return {f"initial_{name}_state": state for name, state in self.states.items()}

    @classmethod
    def after(cls, outputs: RnnModelOutput, mask: Tensor, before: "RnnCache | None") -> "RnnCache":
        """Return the state after more tokens, with the mask `(B, T)`."""
        tokens = mask.shape[1] + (0 if before is None else before.tokens)
        hidden = cast(Tensor, outputs.final_hidden_state)
        return cls(hidden, outputs.final_cell_state, tokens, outputs.final_conv_state)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read."""
        return self.tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these texts of the batch, as beam search does."""
        for name, state in self.states.items():
            setattr(self, name, state.index_select(1, beam_idx))


def _shift(labels: Tensor, mask: Tensor) -> Tensor:
    """Return the token to predict at each place `(B, T)`; none where it or the place is padding."""
    both = mask[:, :-1] & mask[:, 1:]
    following = labels[:, 1:].masked_fill(~both, IGNORED_LABEL)
    return nn.functional.pad(following, (0, 1), value=IGNORED_LABEL)


@dataclass
class RnnCausalLMOutput(ModelOutput):
    """Output of [`RnnForCausalLM`].

    Args:
        loss (scalar): Only with labels.
        logits (`(B, T, V)`): Scores of the next token before softmax.
        cache ([`RnnCache`]): The state after the last token, for a call with the tokens that
            follow.
        hidden_states (`tuple`): As in [`RnnModelOutput`].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: RnnCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def get(self, key: str, default: object = None) -> Any:
        """Return a value by name; `past_key_values` is the name of `cache` in older programs."""
        return super().get("cache" if key == "past_key_values" else key, default)


class RnnForCausalLM(RnnPreTrainedModel, GenerationMixin):
    """[`RnnModel`] in one direction and a linear layer: token ids to logits of the next token.

    With `config.tie_word_embeddings` the linear layer is the embedding; states of another width are
    projected first. `config.classifier_dropout` is dropout on the states. The `last_hidden_state`
    of `model.rnn` has passed both: its product with `lm_head` is the logits, which is how other
    libraries compute them.
    """

    _auto_class = "AutoModelForCausalLM"

    _tied_weights_keys = {"lm_head.weight": "rnn.embedding.weight"}
    _is_stateful = True  # a state cannot be taken back to an earlier token

    def __init__(self, config: RnnConfig) -> None:
        if config.bidirectional:
            raise ValueError(
                "a language model reads in one direction: found bidirectional=True; set it to False"
            )
        # in training, a text follows the end of another: an empty prompt starts there
        if config.bos_token_id is None:
            ends = config.eos_token_id
            config.bos_token_id = ends[0] if isinstance(ends, list) else ends
        super().__init__(config)
        self.rnn = RnnModel(config)
        self.rnn.finish_states = self._finish_states
        self.dropout = nn.Dropout(config.classifier_dropout)
        size = config.embedding_size if config.tie_word_embeddings else config.output_size
        self.projection: nn.Module = nn.Identity()
        if size != config.output_size:
            self.projection = nn.Linear(config.output_size, size)
        self.lm_head = nn.Linear(size, config.vocab_size)
        if config.tie_word_embeddings:  # the Trainer warns of any other missing weight
            self._keys_to_ignore_on_save = list(self._tied_weights_keys)
        self.loss_type = "ForCausalLM"  # transformers' default depends on the class's name
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the other models, and let padding start as an unlikely next token."""
        super()._init_weights(module)
        pad = self.config.pad_token_id
        ends = self.config.eos_token_id
        is_end = pad in ends if isinstance(ends, list) else pad == ends
        if module is self.lm_head and pad is not None and not is_end:
            for parameter, value in ((self.lm_head.weight, 0.0), (self.lm_head.bias, _PAD_BIAS)):
                if not getattr(parameter, "_is_hf_initialized", False):
                    init.constant_(parameter[pad], value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: RnnCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: RnnCache | None = None,
        **kwargs: object,
    ) -> RnnCausalLMOutput:
        """Score the next token at each place.

        Args:
            input_ids (`(B, T)`): Token ids.
            attention_mask (`(B, T)`): 0 at padding; by default where the id is
                `config.pad_token_id`. With `cache` it may also have the tokens before these.
            labels (`(B, T)`): The token ids themselves, -100 to ignore one. The loss is that of
                each token but the first, after the tokens before it; padding is ignored.
            inputs_embeds (`(B, T, E)`): Token vectors in place of `input_ids`.
            cache: The state after the tokens before these; gradients flow through it.
            use_cache: Whether to return the state; by default without labels.
            output_hidden_states: Whether to return the states of all layers.
            logits_to_keep: Compute the logits of this number of places at the end only, 0 for all;
                or of these places.
            past_key_values: Former name of `cache`.
            **kwargs: `shift_labels` (`(B, T)`), in place of `labels`: the token to predict at each
                place, for a text in pieces; and options of the loss, such as `num_items_in_batch`.
        """
        cache = past_key_values if cache is None else cache
        # by name, the Trainer would require it
        shift_labels = cast(Tensor | None, kwargs.pop("shift_labels", None))
        if use_cache is None:
            use_cache = labels is None and shift_labels is None
        mask = self._read_mask(input_ids, attention_mask, inputs_embeds, cache)
        options = {} if cache is None else cache.initial_states
        options["output_final_states"] = use_cache
        options["output_hidden_states"] = output_hidden_states
        outputs = self.rnn(input_ids, mask, inputs_embeds, return_dict=True, **options)
        places = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, places])

        if labels is not None and shift_labels is None:
            shift_labels = _shift(labels, mask)
        return RnnCausalLMOutput(
            loss=self._measure_loss(logits, shift_labels, **kwargs),
            logits=logits,
            cache=RnnCache.after(outputs, mask, cache) if use_cache else None,
            hidden_states=outputs.hidden_states,
        )

    def _measure_loss(
        self, logits: Tensor, shift_labels: Tensor | None, **kwargs: object
    ) -> Tensor | None:
        """Return the loss of the tokens to predict at each place; None without them."""
        if shift_labels is None:
            return None
        kwargs.setdefault("vocab_size", self.config.vocab_size)
        shift_labels = shift_labels.long().contiguous()
        return self.loss_function(logits=logits, labels=None, shift_labels=shift_labels, **kwargs)

    def _read_mask(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        cache: RnnCache | None,
    ) -> Tensor:
        """Return the mask of these tokens; that of a call may also have those before them."""
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        if cache is not None and attention_mask is not None and inputs is not None:
            attention_mask = attention_mask[:, -inputs.shape[1] :]
        return self.rnn.read_mask(input_ids, attention_mask, inputs_embeds)

    def _finish_states(self, states: Tensor) -> Tensor:
        return self.projection(self.dropout(states))

    # ---- generate ----

    def generate(self, *args: Any, cache: RnnCache | None = None, **kwargs: Any) -> Any:
        """Generate as transformers does, also from a `cache`, which versions name differently."""
        if cache is not None:
            kwargs[_CACHE] = cache
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,  # named, since `generate` asks for this name
        **kwargs: object,
    ) -> dict[str, object]:
        """Return the arguments of `forward` as transformers does.

        Raises a ValueError if the cache leaves no token to read.
        """
        if next_sequence_length is not None and next_sequence_length < 1:
            raise ValueError(
                "the cache has read all tokens of input_ids, or more: found "
                f"{input_ids.shape[1]} tokens. Give generate the whole text, or new tokens with "
                "the attention_mask of the whole text"
            )
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _update_model_kwargs_for_generation(
        self,
        outputs: RnnCausalLMOutput,
        model_kwargs: dict[str, object],
        *args: object,
        **kwargs: object,
    ) -> dict[str, object]:
        model_kwargs = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, **kwargs
        )
        return model_kwargs if outputs.cache is None else {**model_kwargs, _CACHE: outputs.cache}
