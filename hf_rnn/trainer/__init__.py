"""The Trainer with what recurrent text classifiers need."""

from .rnn_trainer import RnnTrainer

__all__ = ["RnnTrainer"]
