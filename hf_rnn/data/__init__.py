"""Labelled texts in, data sets out: TSV files or any data set of the `datasets` library, every row accounted for.

[`load_tsv`] and [`load_named`] return splits with the columns `text` (string) and `label` (ClassLabel);
[`encode`] turns these into `input_ids` and `labels`. A row is delivered exactly as it stands, or refused with its
place and a typed reason; nothing is dropped, merged, retyped or relabelled without a word.

The files, in the order in which data passes them: `files` (which file is which split), `layout` (columns), `sniffing`
(what is no UTF-8), `reading` (bytes to rows), `tsv_file` and `library_split` (what rows are read from), `labels`,
`faults` and `accounting` (what is refused, and the count), `splits` (all of these together), `holdout`, `loading`,
`encoding`.
"""

from .encoding import encode
from .loading import load_named, load_tsv
from .row_errors import DataError, Reason
from .row_report import DataReport, SplitReport

__all__ = ["DataError", "DataReport", "Reason", "SplitReport", "encode", "load_named", "load_tsv"]
