"""`hf-rnn audit`: what would spoil training on labelled texts, or the scores on them; prints tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import datasets
from transformers import PreTrainedTokenizerBase

from ..data import DataReport, load_named
from ..data.audit import Origin, audit, render_text
from ..data.loading import find_origins, load_texts
from ..data.vectors import widen_vocabulary
from ..hub import loading as model_loading
from ..tokenizers.word_level import NoFrequentWordError
from ..training.arguments.parser import SettingsParser
from ..training.arguments.run_arguments import named_flags, settings_beside
from ..training.arguments.text_arguments import DataArguments
from ..training.audit_run import check_leaks
from ..training.build_tokenizer import make_tokenizer
from ..training.recipes import DEFAULT_RECIPE, Setting
from ..utils.errors import UserError
from .console import tell


@dataclass
class AuditArguments(DataArguments):
    """Flags of this verb, besides those that say what the texts are and how they become tokens."""

    json: bool = field(default=False, metadata={"help": "print one JSON object, with every row that is found"})
    recipe: str = field(default=DEFAULT_RECIPE, metadata={"help": "whose settings of texts and tokens to start from"})


def run(argv: Sequence[str]) -> None:
    """Audit the very splits, and with the very tokenizer, that `hf-rnn train` would use; no row is changed.

    Raises:
        UserError: For a mistake in flags or data; after the report, when more leaks than `fail_on_leak` allows.
    """
    arguments = _parse(argv)
    arguments.check_source()
    if arguments.streaming:
        raise UserError("an audit compares all rows: leave out streaming, or set it to false")
    datasets.disable_progress_bars()
    model_loading.quiet()
    texts, origins = _load(arguments)
    try:
        tokenizer = _tokenizer(arguments, texts["train"]["text"])
    except NoFrequentWordError as error:  # training would stop there; all else can be told
        tell(f"unknown tokens are not counted: {error}")
        tokenizer = None
    report = audit(texts, tokenizer, origins=origins)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else render_text(report))
    check_leaks(report, arguments)


def _parse(argv: Sequence[str]) -> AuditArguments:
    chooser = SettingsParser(prog="hf-rnn audit", add_help=False)
    chooser.add_argument("--recipe", default=DEFAULT_RECIPE)
    recipe = chooser.parse_known_args(list(argv))[0].recipe
    parser = SettingsParser(AuditArguments, prog="hf-rnn audit")
    known = {setting.name for setting in fields(DataArguments)}
    of_recipe = settings_beside(recipe, named_flags(argv))
    settings = {name: setting for name, setting in of_recipe.items() if name in known}
    if {"-h", "--help"} & set(argv):
        parser.show_defaults({**settings, "recipe": Setting(recipe, parser.prog)})
    (arguments,) = parser.parse([*parser.tokens(settings), *argv])
    return arguments


def _tokenizer(arguments: AuditArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """As training has it: that of the model to go on from, or one of these texts, widened where settings say so."""
    tokenizer = make_tokenizer(arguments, texts)
    if arguments.vectors is None or arguments.widen_vocabulary is None:
        return tokenizer
    return widen_vocabulary(tokenizer, arguments.vectors, arguments.widen_vocabulary)


def _load(arguments: AuditArguments) -> tuple[datasets.DatasetDict, dict[str, Origin]]:
    """Return the splits, and where their rows stand as far as no bad row was left out."""
    report = DataReport()
    texts = load_texts(arguments, class_names=arguments.class_names, validation_share=0, report=report)
    origins = find_origins(arguments, report)
    if "validation" in texts:
        return texts, origins
    # Numbers in the place of texts are held out as the texts are in training, and so tell which rows these are.
    train = texts["train"]
    numbers = train.remove_columns("text").add_column("text", [str(row) for row in range(len(train))])
    parts = {
        name: [int(row) for row in part["text"]]
        for name, part in load_named(datasets.DatasetDict(train=numbers)).items()
    }
    for name, rows in parts.items():
        texts[name] = train.select(rows)
    if "train" in origins:
        found = origins["train"]
        origins |= {name: Origin(found.file, [found.lines[row] for row in rows]) for name, rows in parts.items()}
    return texts, origins
