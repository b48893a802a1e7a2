"""The audit as part of a training run: one line of log, and a refusal when too much leaks."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING, Any

import datasets

from ..data import DataReport
from ..data.audit import AuditReport, Overlap, Place, audit, render_line
from ..data.source import find_origins
from ..utils.errors import UserError
from .arguments.text_arguments import DataArguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MANY_UNKNOWN = 0.5  # of a split's tokens: from there on a model reads next to nothing


def audit_run(
    texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments, report: DataReport
) -> dict[str, Any]:
    """Audit the splits of a run, say in one line what was found, and return its summary.

    Args:
        texts: The splits as they were read.
        tokenizer: The run's own.
        arguments: Where the texts came from, and how much may leak.
        report: What the load said.

    Raises:
        UserError: When more of a split repeats rows of train than `fail_on_leak` allows.
    """
    found = audit(texts, tokenizer, origins=find_origins(arguments, report))
    check_leaks(found, arguments)
    logger.info("audit: %s", render_line(found))
    unknown = found.splits["validation"].unknown_token_share if "validation" in found.splits else None
    if unknown is not None and unknown > _MANY_UNKNOWN:
        remedy = "name a tokenizer that knows them with tokenizer_name_or_path"
        if arguments.tokenizer_name_or_path is None and arguments.model_name_or_path is None:
            remedy = (
                "lower min_frequency or raise max_vocab_size, or, for texts whose words no space parts, name a "
                "tokenizer that cuts them with tokenizer_name_or_path"
            )
        logger.warning("%.0f %% of the tokens of validation are not in the vocabulary: %s", 100 * unknown, remedy)
    return found.summary()


def check_leaks(found: AuditReport, arguments: DataArguments) -> None:
    """Refuse splits that leak too much.

    Args:
        found: The audit of the splits.
        arguments: How much may leak.

    Raises:
        UserError: When more of a split repeats rows of train than `fail_on_leak` allows.
    """
    limit = arguments.leak_limit()
    if limit is not None and found.leak_share > limit:
        raise UserError(_refusal(found, arguments))


def _refusal(found: AuditReport, arguments: DataArguments) -> str:
    leaks = (overlap for overlap in found.overlaps if overlap.source == "train" != overlap.split)
    worst: Overlap = max(leaks, key=lambda overlap: overlap.share)
    first = worst.repeats[0]
    return (
        f"{len(worst.repeats):,} of {worst.rows:,} rows of {worst.split} ({worst.share:.2%}) repeat a row of train, "
        f"more than fail_on_leak {arguments.fail_on_leak} allows; the first: {_place(found, first.place)} repeats "
        f"{_place(found, first.twin)}. {_advice(arguments)}"
    )


def _place(found: AuditReport, place: Place) -> str:
    if place.line is None:
        return f"row {place.row} of {place.split}"
    return f"{found.splits[place.split].file}:{place.line}"


def _advice(arguments: DataArguments) -> str:
    """How to see all of them, as far as there is a command for it."""
    if arguments.dataset_name is None and arguments.data_dir is None:
        return "hf_rnn.audit.audit(texts) lists all; take them out of train"
    command = ["hf-rnn", "audit"]
    for name in ("dataset_name", "dataset_config", "data_dir", "text_column", "label_column"):
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name}", str(value)]
    command += ["--header"] if arguments.header else []
    command += ["--class_names", *arguments.class_names] if arguments.class_names else []
    command += ["--max_bad_rows", str(arguments.max_bad_rows)] if str(arguments.max_bad_rows) != "0" else []
    return f"{shlex.join([*command, '--json'])} lists all; take them out of train"
