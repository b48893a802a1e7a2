"""A trained classifier → the same function of token ids, faster on a CPU: what layer 1 reads of a token is a table.

The files, the later ones upon the earlier: `foreign_parts` (what weights alone do not tell of, so that there is no
table), `cells` (a step of each cell over a batch, when what it reads is known), `table` (what layer 1 reads of every
token), `numpy_cells` and `lstm_kernel` (a layer over one text), `text_alone` (one text through all layers),
`padded_layers` (a batch through layers of the model itself), `classifier` (which of these serves, and logits). Batches
come packed, from `packing.py`; texts, tokenizers and devices are the concern of `predictor.py`.
"""

from .classifier import FoldedClassifier
from .eligibility import find_foreign_part
from .single_text import MOST_OF_A_FEW
from .table import TABLE_DTYPES, TableDtype, table_bytes, table_work

__all__ = [
    "MOST_OF_A_FEW",
    "TABLE_DTYPES",
    "FoldedClassifier",
    "TableDtype",
    "find_foreign_part",
    "table_bytes",
    "table_work",
]
