"""`hf-rnn audit`: report problems of labelled texts for training and scores; print tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..training.arguments.parser import SettingsParser, setting
from ..training.arguments.run_arguments import choose_recipe, find_defaults, merge_recipe
from ..training.arguments.text_arguments import DataArguments
from ..training.recipes import Setting
from ..utils.errors import UserError
from .console import print_note

if TYPE_CHECKING:
    import datasets

    from ..data.audit import Origin


@dataclass
class AuditArguments(DataArguments):
    """Flags of this verb, beside those of the texts and their tokens."""

    json: bool = setting(False, "print one JSON object with every row that is found", common=True)
    recipe: str | None = setting(None, "recipe with settings of texts and tokens to start from", common=True)


def run(argv: Sequence[str]) -> None:
    """Audit the splits that `hf-rnn train` would use, with its tokenizer; no row is changed."""
    arguments = _parse(argv)
    arguments.check_source()
    if arguments.streaming:
        raise UserError("an audit compares all rows: leave out streaming, or set it to false")
    import datasets

    from ..data.audit import audit, render_text
    from ..data.vectors import widen_vocabulary
    from ..hub import loading as model_loading
    from ..tokenizers.word_level import NoFrequentWordError
    from ..training.build import make_tokenizer

    datasets.disable_progress_bars()
    model_loading.quiet()
    texts, origins = _load(arguments)
    try:
        tokenizer = make_tokenizer(arguments, texts["train"]["text"])
        if arguments.vectors is not None and arguments.widen_vocabulary is not None:
            tokenizer = widen_vocabulary(tokenizer, arguments.vectors, arguments.widen_vocabulary)
    except NoFrequentWordError as error:  # the rest of the report needs no tokenizer
        print_note(f"unknown tokens are not counted: {error}")
        tokenizer = None
    report = audit(texts, tokenizer, origins=origins)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else render_text(report))
    report.check_leaks(arguments.leak_limit())


def _parse(argv: Sequence[str]) -> AuditArguments:
    parser = SettingsParser(
        AuditArguments,
        defaults=find_defaults,
        prog="hf-rnn audit",
        description="Look for leaks between splits, duplicates, conflicting labels and unknown tokens.",
        example="data/tweets",
    )
    flags = {name: Setting(value, parser.prog) for name, value in parser.parse_flags(argv).items()}
    names = {known.name for known in fields(AuditArguments)}
    merged = {name: value for name, value in merge_recipe(choose_recipe(flags), flags).items() if name in names}
    settings = parser.convert(merged)
    parser.check_required(settings)
    (arguments,) = parser.build(settings)
    return arguments


def _load(arguments: AuditArguments) -> tuple[datasets.DatasetDict, dict[str, Origin]]:
    """Return the splits, and the lines of their rows in files without bad rows."""
    import datasets

    from ..data.audit import Origin
    from ..data.loading import load_named
    from ..data.row_errors import DataReport
    from ..data.source import find_origins, load_texts

    report = DataReport()
    texts = load_texts(arguments, class_names=arguments.class_names, validation_share=0, report=report)
    origins = find_origins(arguments, report)
    if "validation" in texts:
        return texts, origins
    # hold out validation rows as training does, with row numbers as texts, to know the line of each row
    train, origin = texts["train"], origins.pop("train", None)
    numbers = train.remove_columns("text").add_column("text", [str(row) for row in range(len(train))])
    for name, part in load_named(datasets.DatasetDict(train=numbers)).items():
        rows = [int(row) for row in part["text"]]
        texts[name] = train.select(rows)
        if origin is not None:
            origins[name] = Origin(origin.file, [origin.lines[row] for row in rows])
    return texts, origins
