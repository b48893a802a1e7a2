"""`hf-rnn audit`: report problems of labelled texts for training and scores; print tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..training.settings import DataArguments, SettingsParser, parse_data, setting
from .console import print_note


@dataclass
class AuditArguments(DataArguments):
    """Flags of this verb, beside those of the texts and their tokens."""

    json: bool = setting(False, "print one JSON object with every row that is found", common=True)
    recipe: str | None = setting(None, "recipe with settings of texts and tokens to start from", common=True)


def run(argv: Sequence[str]) -> None:
    """Audit the splits that `hf-rnn train` would use, with its tokenizer; no row is changed."""
    arguments = _parse(argv)
    arguments.check_source()
    import datasets

    from ..data.audit import audit, render_text
    from ..data.loading import load_texts
    from ..data.row_errors import DataReport
    from ..data.vectors import widen_vocabulary
    from ..hub import loading as model_loading
    from ..hub.loading import find_folder
    from ..hub.model_folder import FinishedFolder
    from ..tokenizers.word_level import NoFrequentWordError
    from ..training.run import make_tokenizer

    datasets.disable_progress_bars()
    model_loading.quiet()
    data = DataReport()
    record = {}
    if arguments.model_name_or_path is not None:
        record = FinishedFolder(find_folder(arguments.model_name_or_path)).read_data_record()
    recorded = {use: record.get(f"{use}_column") for use in ("text", "label")}
    texts = load_texts(arguments, class_names=arguments.class_names, report=data, recorded=recorded)
    try:
        tokenizer = make_tokenizer(arguments, texts["train"]["text"])
        if arguments.vectors is not None and arguments.widen_vocabulary is not None:
            tokenizer = widen_vocabulary(tokenizer, arguments.vectors, arguments.widen_vocabulary)
    except NoFrequentWordError as error:  # the rest of the report needs no tokenizer
        print_note(f"unknown tokens are not counted: {error}")
        tokenizer = None
    report = audit(texts, tokenizer, origins=data.lines)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else render_text(report))
    report.check_leaks(arguments.fail_on_leak)


def _parse(argv: Sequence[str]) -> AuditArguments:
    parser = SettingsParser(
        AuditArguments,
        prog="hf-rnn audit",
        description="Look for leaks between splits, duplicates, conflicting labels and unknown tokens.",
        example="data/tweets",
    )
    flags = parser.parse_flags(argv)
    parser.check_required(flags)
    return parse_data(flags, parser.prog, AuditArguments)
