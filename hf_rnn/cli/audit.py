"""`hf-rnn audit`: report problems of labelled texts for training and scores; print tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.settings_rnn import setting
from ..settings.fields import DataArguments
from ..settings.flags import Flags
from ..settings.resolve import resolve
from ..settings.values import convert
from ..utils.errors import SettingError
from .console import print_note


@dataclass
class AuditArguments(DataArguments):
    """Flags of this verb beside those of the texts and their tokens."""

    json: bool = setting(
        False, "print one JSON object with every repeat and conflict", shown="common"
    )
    recipe: str | None = setting(
        None, "recipe with settings of texts and tokens to start from", shown="common"
    )


_MEANING = "Look for leaks between splits, duplicates, conflicting labels and unknown tokens."
FLAGS = Flags("audit", AuditArguments, _MEANING, "data/tweets", ("data_dir",))


def run(argv: Sequence[str]) -> None:
    """Audit the splits that `hf-rnn train` would use, with its tokenizer; no row is changed."""
    flags = FLAGS.read(argv)
    as_json = convert("json", FLAGS.settings["json"], flags.pop("json", False))
    settings = resolve(flags, check=FLAGS.check)
    import datasets

    from ..data.audit import audit, render_text
    from ..data.report import DataReport
    from ..hub import model_folder
    from ..tasks import get_task
    from ..tokenizers.word_level import NoFrequentWordError
    from ..training.run import make_tokenizer, suit_language, suit_vocabulary

    datasets.disable_progress_bars()
    model_folder.quiet()
    task = get_task(settings.data.task)
    report = DataReport()
    texts = task.read(settings.data, class_names=settings.data.class_names, report=report)
    rows = task.audit_view(texts)
    if rows is None:
        raise SettingError(f"texts of the task {task.name} are not audited: leave out --task")

    settings, _ = suit_language(settings, task, task.vocabulary_texts(texts["train"]))
    data = suit_vocabulary(settings, sum(report.label_counts["train"])).data
    try:
        tokenizer = make_tokenizer(data, task.vocabulary_texts(texts["train"]))
    except NoFrequentWordError as error:  # the rest of the report needs no tokenizer
        print_note(f"unknown tokens are not counted: {error}")
        tokenizer = None

    results = audit(rows, tokenizer, origins=report.lines)
    if as_json:
        print(json.dumps(results.to_dict(), ensure_ascii=False))
    else:
        print("\n".join(render_text(results)))
    results.check_leaks(data.fail_on_leak)
