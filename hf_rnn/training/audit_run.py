"""The audit as part of a training run."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING, Any

import datasets

from ..data import DataReport
from ..data.audit import AuditReport, audit, render_line
from ..data.source import find_origins
from ..utils.errors import UserError
from .arguments.text_arguments import DataArguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MANY_UNKNOWN = 0.5  # share of the tokens of a split


def audit_run(
    texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments, report: DataReport
) -> dict[str, Any]:
    """Audit the splits of a run, log the findings on one line, and return their summary.

    Args:
        texts: The splits as they were read.
        tokenizer: The tokenizer of the run.
        arguments: The source of the texts, and the share of rows that may leak.
        report: The report of the load.

    Raises:
        UserError: When more rows of a split repeat rows of train than `fail_on_leak` allows.
    """
    found = audit(texts, tokenizer, origins=find_origins(arguments, report))
    check_leaks(found, arguments)
    logger.info("audit: %s", render_line(found))
    unknown = found.splits["validation"].unknown_token_share if "validation" in found.splits else None
    if unknown is not None and unknown > _MANY_UNKNOWN:
        remedy = "give a tokenizer that knows them with tokenizer_name_or_path"
        if arguments.tokenizer_name_or_path is None and arguments.model_name_or_path is None:
            remedy = (
                "lower min_frequency or raise max_vocab_size; for languages written without spaces give a tokenizer "
                "of subwords with tokenizer_name_or_path"
            )
        logger.warning("%.0f %% of the tokens of validation are not in the vocabulary: %s", 100 * unknown, remedy)
    return found.summary()


def check_leaks(found: AuditReport, arguments: DataArguments) -> None:
    """Refuse splits that leak.

    Raises:
        UserError: When more rows of a split repeat rows of train than `fail_on_leak` allows.
    """
    limit = arguments.leak_limit()
    if limit is None or found.leak_share <= limit:
        return
    worst = max(found.leaks, key=lambda leak: leak.share)
    first = worst.repeats[0]
    raise UserError(
        f"{len(worst.repeats):,} of {worst.rows:,} rows of {worst.split} ({worst.share:.2%}) repeat a row of train, "
        f"more than fail_on_leak {arguments.fail_on_leak} allows: first {found.name_place(first.place)} repeats "
        f"{found.name_place(first.twin)}; remove them from train, list all with {_audit_command(arguments)}"
    )


def _audit_command(arguments: DataArguments) -> str:
    """Return the command, or the call in Python, that lists all leaks."""
    if arguments.dataset_name is None and arguments.data_dir is None:
        return "hf_rnn.data.audit.audit(texts)"
    command = ["hf-rnn", "audit"]
    for name in ("dataset_name", "dataset_config", "data_dir", "text_column", "label_column"):
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name}", str(value)]
    command += ["--header"] if arguments.header else []
    command += ["--class_names", *arguments.class_names] if arguments.class_names else []
    command += ["--max_bad_rows", str(arguments.max_bad_rows)] if str(arguments.max_bad_rows) != "0" else []
    return shlex.join([*command, "--json"])
