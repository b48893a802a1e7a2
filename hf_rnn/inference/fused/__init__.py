"""Compute a classifier's logits from token ids faster than the model, on a CPU.

All that depends on a token alone is a table with one row per vocabulary entry: the input projection of layer 1, or the
token's place in the residual stream. The files, each built on those before it: `packing` (texts → batches without
padding), `cells` (the recurrence of each cell type when the projection is known), `blocks` (residual blocks),
`classifier` (which models are supported; the table; logits).
"""

from .blocks import FusedBlocks
from .classifier import TABLE_DTYPES, FusedClassifier, TableDtype, find_unsupported_part, fuse, table_bytes

__all__ = [
    "TABLE_DTYPES", "FusedBlocks", "FusedClassifier", "TableDtype", "find_unsupported_part", "fuse", "table_bytes"
]  # fmt: skip
