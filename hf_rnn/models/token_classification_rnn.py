"""The tagger on top of the recurrent encoder: a tag for each token, independent or from a conditional random field."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .cells_rnn import CompactTexts
from .configuration_rnn import RnnConfig
from .crf_rnn import Crf
from .modeling_rnn import RnnModel, RnnPreTrainedModel


@dataclass
class RnnTokenClassifierOutput(TokenClassifierOutput):
    """Output of [`RnnForTokenClassification`]; the states are those of [`RnnModelOutput`].

    Args:
        loss (scalar): Only with labels.
        logits (`(B, T, C)`): Scores before softmax, zero where the mask is zero. With `config.crf`, the score of the
            best tagging that has this tag at this token, minus that of the best one: 0 for its tags, negative for
            others. In training mode, `emissions`.
        emissions (`(B, T, C)`): With `config.crf`: the scores that the conditional random field reads.
    """

    emissions: torch.Tensor | None = None
    final_hidden_state: torch.Tensor | None = None
    final_cell_state: torch.Tensor | None = None


class RnnForTokenClassification(RnnPreTrainedModel):
    """[`RnnModel`] and a linear layer per token: token ids to logits of tags.

    `config.crf` adds a conditional random field: the loss is that of the whole tagging, and the largest logits are
    those of the best tagging. With tags B-X and I-X it is a valid one: I-X follows only B-X or I-X.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.rnn = RnnModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.output_size, config.num_labels)
        self.crf = Crf(config.num_labels) if config.crf else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Crf):
            for parameter in module.parameters():
                init.zeros_(parameter)

    @can_return_tuple
    def forward(  # noqa: D417 - the other arguments are those of RnnModel
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
    ) -> RnnTokenClassifierOutput:
        """Tag the tokens of a batch of texts.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): Tags; -100 at tokens without one, such as
                padding and all but the first piece of a word. The loss is per token with a tag.
            **kwargs: `num_items_in_batch` is the number of tags over accumulated batches; others are ignored.

        The other arguments are those of [`RnnModel.forward`].
        """
        mask = self.rnn.read_mask(input_ids, attention_mask, inputs_embeds)
        options = initial_hidden_state, initial_cell_state, output_final_states, output_hidden_states
        outputs = self.rnn(input_ids, mask, inputs_embeds, *options, return_dict=True)
        emissions = logits = self.classifier(self.dropout(outputs.last_hidden_state)) * mask[:, :, None]
        if labels is not None:
            labels = labels.long().masked_fill(~mask, -100)
        loss = None
        if self.crf is not None and mask.shape[1]:
            texts = CompactTexts(mask)
            compact = texts.compact(emissions).float()
            if labels is not None:
                count = kwargs.get("num_items_in_batch")
                count = (labels >= 0).sum().clamp(min=1) if count is None else count
                loss = self.crf.losses(compact, texts.compact(labels), texts.valid).sum() / count
            if not self.training:
                names = [self.config.id2label[index] for index in range(self.num_labels)]
                logits = texts.restore([self.crf.best_scores(compact, texts.valid, names)]).to(emissions.dtype)
        elif labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return RnnTokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            emissions=None if self.crf is None else emissions,
            final_hidden_state=outputs.final_hidden_state,
            final_cell_state=outputs.final_cell_state,
        )
