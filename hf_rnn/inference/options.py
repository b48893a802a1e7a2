"""The options of an evaluation, as flags and keywords; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from ..data import TableArguments
from ..models.settings_rnn import setting


@dataclass
class EvaluateOptions(TableArguments):
    """The rows, and the measures."""

    split: str | None = setting(
        None,
        "train, dev or test; of one table train are the rows that were trained on "
        "(default: test, or others)",
        shown="common",
    )
    target: float | None = setting(
        None,
        "accuracy of the answers that need no person; thresholds for it go into the folder",
        above=0,
        below=1,
        shown="common",
    )
    choose: bool = setting(
        False, "with --target: choose the thresholds again on these rows, in place of stored ones"
    )
    none_label: str | None = setting(
        None, "label in the data of texts that fit no class of the model"
    )
    typos: list[float] | None = setting(
        None, "score copies of the rows with this share of words mistyped too, such as 0.1 0.2"
    )
    label_map: list[str] | None = setting(
        None, "labels of the data with other names in the model: 0=neutral 1=bad"
    )
    device: str = setting("cpu", "cpu is the fast path; cuda, mps ... run the plain model")
