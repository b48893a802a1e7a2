"""Labelled texts in, data sets out: files of any table or any data set of the `datasets` library, every row counted.

[`load_tsv`] returns splits with the columns `text` (string) and `label` (ClassLabel); [`encode`] turns these into
`input_ids` and `labels`. A row is delivered unchanged, or rejected with its place and a typed reason.

Modules, in the order of the data: `loading` (where from), `tables`, `delimited` and `lines` (formats), `rows` (the
check of texts and labels), `labels` (their meaning), `row_errors` (rejections and their count), `splits`, `audit`, and
`encoding`.
"""
