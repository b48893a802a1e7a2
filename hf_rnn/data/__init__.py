"""Labelled texts in, data sets out: files of any table or any data set of the `datasets` library, every row counted.

[`load_tsv`] and [`load_named`] return splits with the columns `text` (string) and `label` (ClassLabel); [`encode`]
turns these into `input_ids` and `labels`. A row is delivered unchanged, or refused with its place and a typed reason.

Modules, in the order of the data: `source` and `loading` (where from), `tables`, `delimited` and `hf_dataset`
(formats), `rows` (the check of texts and labels), `labels`, `row_errors` (refusals and their count), `split_reader`
and `stratified_split` (splits), `encoding`, `samplers` and `padded_dataset` (batches). `line_reader` reads a stream.
"""
