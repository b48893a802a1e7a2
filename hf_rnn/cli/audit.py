"""`hf-rnn audit`: report problems of labelled texts for training and scores, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import Location
from ..models.settings_rnn import setting
from ..settings.fields import DataArguments
from ..settings.flags import Flags
from ..settings.resolve import Settings, resolve
from ..settings.values import convert
from ..utils.errors import SettingError
from .console import print_note

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

    from ..data.report import DataReport
    from ..quality.wrong_labels import WrongLabels


@dataclass
class AuditArguments(DataArguments):
    """Flags of this verb beside those of the texts and their tokens."""

    json: bool = setting(
        False, "print one JSON object with every repeat and conflict", shown="common"
    )
    labels: bool = setting(False, "look for wrong labels too", shown="common")
    output_file: Location | None = setting(
        None, "table of all rows, the most suspicious label first (with labels)", shown="common"
    )
    pairs_file: Location | None = setting(
        None, "table of the pairs of rows that nearly repeat each other", shown="common"
    )
    recipe: str | None = setting(
        None, "recipe with settings of texts and tokens to start from", shown="common"
    )


_MEANING = "Look for leaks between splits, repeats, conflicting and wrong labels, unknown tokens."
_SHOWN = 5  # pairs of labels, and rows with the most suspicious ones
FLAGS = Flags("audit", AuditArguments, _MEANING, "data/tweets", ("data_dir",))


def run(argv: Sequence[str]) -> None:
    """Audit the splits that `hf-rnn train` would use, with its tokenizer; no row is changed."""
    flags = FLAGS.read(argv)
    names = ("json", "labels", "output_file", "pairs_file")
    own = {name: convert(name, FLAGS.settings[name], flags.pop(name, None)) for name in names}
    if own["output_file"] and not own["labels"]:
        raise SettingError("--output_file has the rows with suspicious labels: add --labels")
    settings = resolve(flags, check=FLAGS.check)
    from ..data.report import DataReport
    from ..quality.audit import audit, count_near_pairs, find_near_pairs, render_text

    report = DataReport()
    rows, tokenizer = _read_rows(settings, report, bool(own["labels"]))
    pairs = find_near_pairs(rows)
    results = audit(rows, tokenizer, origins=report.lines)
    results = replace(results, near_repeats=count_near_pairs(pairs))
    if own["pairs_file"]:
        _write(own["pairs_file"], pairs)
    suspicious = _judge_labels(rows, report.lines) if own["labels"] else None
    if suspicious is not None and own["output_file"]:
        _write(own["output_file"], suspicious.rows)

    if own["json"]:
        content = results.to_dict()
        if suspicious is not None:
            share = {
                "share": suspicious.share,
                "agreement": suspicious.agreement,
                "pairs": suspicious.pairs.to_dict("records"),
            }
            content["wrong_labels"] = share
        print(json.dumps(content, ensure_ascii=False))
    else:
        print("\n".join(render_text(results)))
        if suspicious is not None:
            print("\n".join(_render_labels(suspicious)))
    results.check_leaks(settings.data.fail_on_leak)


def _read_rows(
    settings: Settings, report: DataReport, with_labels: bool
) -> tuple[DatasetDict, PreTrainedTokenizerBase | None]:
    """Return the splits to audit, and the tokenizer of a training, if the texts allow one."""
    import datasets

    from ..hub import model_folder
    from ..tasks import get_task
    from ..tokenizers.word_level import NoFrequentWordError
    from ..training.prepare import decide_start, make_tokenizer

    datasets.disable_progress_bars()
    model_folder.quiet()
    task = get_task(settings.data.task)
    texts = task.read(settings.data, class_names=settings.data.class_names, report=report)
    rows = task.audit_view(texts)
    if rows is None:
        raise SettingError(f"texts of the task {task.name} are not audited: leave out --task")
    if with_labels and not task.one_label:
        raise SettingError(f"--labels is for one label per text: leave it out with {task.name}")

    count = sum(report.label_counts["train"])
    settings, _ = decide_start(settings, task.vocabulary_texts(texts["train"]), count)
    try:
        return rows, make_tokenizer(settings.data, task.vocabulary_texts(texts["train"]))
    except NoFrequentWordError as error:  # the rest of the report needs no tokenizer
        print_note(f"unknown tokens are not counted: {error}")
        return rows, None


def _judge_labels(rows: DatasetDict, lines: Mapping[str, tuple[str, np.ndarray]]) -> WrongLabels:
    """Return the rows of all splits, by how wrong their labels look, with their places."""
    import datasets
    import numpy as np

    from ..data.splits import join_texts
    from ..quality.wrong_labels import find_wrong_labels

    everything = datasets.concatenate_datasets(list(rows.values()))
    labels = np.asarray(everything["label"][:])
    names = everything.features["label"].names
    found = find_wrong_labels(list(join_texts(everything)), labels, names)

    table = found.rows
    place = table["row"]
    sizes = list(map(len, rows.values()))
    table.insert(0, "split", np.repeat(list(rows), sizes)[place])
    table["row"] = np.concatenate(list(map(np.arange, sizes)))[place]
    if lines.keys() >= rows.keys():
        known = np.concatenate([lines[split][1] for split in rows])
        table.insert(2, "line", known[place])
    return found


def _render_labels(found: WrongLabels) -> Iterator[str]:
    """Yield the estimate of wrong labels, and the most suspicious rows, as lines."""
    yield (
        f"\nlabels that look wrong: about {found.share:.1%}, texts of several meanings included, "
        f"by models that agree with {found.agreement:.0%} of the labels"
    )
    for pair in found.pairs[:_SHOWN].itertuples():
        yield f"  {pair.rows:,} of {pair.label} look like {pair.suggested}"
    for row in found.rows[:_SHOWN].itertuples():
        place = f"line {row.line}" if hasattr(row, "line") else f"row {row.row}"
        yield f"  {row.split} {place} ({row.label}, rather {row.suggested}): {row.text[:80]!r}"


def _write(path: str, table: pd.DataFrame) -> None:
    """Write a table in the format that the name ends in."""
    import pyarrow as pa

    from ..inference.tables import write_table
    from ..utils.process import replace_file

    rows = pa.Table.from_pandas(table, preserve_index=False)
    with replace_file(Path(path)) as file:
        write_table(rows, file, path)
