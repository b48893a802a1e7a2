"""Compute a classifier's logits from token ids faster than the model, on a CPU.

Layer 1 reads a token by its id, so its input projection is a table with one row per vocabulary entry. The files, each
built on those before it: `packing` (texts → batches without padding), `cells` (the recurrence of each cell type when
the projection is known), `classifier` (which models are supported; the table; logits).
"""

from .classifier import TABLE_DTYPES, FusedClassifier, TableDtype, find_unsupported_part, table_bytes

__all__ = ["TABLE_DTYPES", "FusedClassifier", "TableDtype", "find_unsupported_part", "table_bytes"]
