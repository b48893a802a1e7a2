"""The flags of the verbs that run a trained model: which one."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..utils.errors import UserError


@dataclass
class ModelFlags:
    """Flags that name a model."""

    model: str | None = field(default=None, metadata={"help": "finished folder, or id on the Hub"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit, for an id on the Hub"})

    def model_name(self) -> str:
        """Return what `--model` says.

        Raises:
            UserError: When it says nothing; a flag that argparse itself requires would hide one that is misspelt.
        """
        if self.model is None:
            raise UserError("--model is missing: give a finished folder")
        return self.model
