"""Measure what each part of a residual block is worth: one change at a time, accuracy and macro-F1 on dev.

    python scripts/results/ablate_blocks.py --data_root DIR --table MINILM --output_file ablation.jsonl \
        --sets emotion suite/cr suite/mpqa

Blocks with random weights read the tokens and the table of a transformer (recipe `blocks`). Parts that no setting
changes are replaced in the class. Each result is a line of the output file: a stopped run continues there.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run
from results.measure_suite import measure, measure_missing, print_table

SETS = ("emotion", "suite/cr", "suite/mpqa")
FLAGS = {
    "the block": "",
    "without convolution": "--conv_kernel 1",
    "one direction": "--bidirectional false",
    "an LSTM as cell": "--cell_type lstm --hidden_size 64 --residual_size 128",
    "two blocks": "--num_hidden_layers 2",
    "six blocks": "--num_hidden_layers 6",
}


def main() -> None:
    """Measure what is missing in the output file, and print the table."""
    parser = Parser(__doc__, allow_abbrev=False)
    parser.add_argument("--data_root", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders below it (default: %(default)s)")
    parser.add_argument("--table", required=True, help="folder of the transformer")
    parser.add_argument("--epochs", type=positive, default=4, help="epochs of a training (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=1, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, required=True, help="JSON lines of the results")
    flags = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    common = ["--recipe", "blocks", "--tokenizer_name_or_path", flags.table, "--vectors", flags.table]
    common += ["--num_train_epochs", str(flags.epochs)]

    def train(folder: Path, name: str, seed: int) -> dict[str, Any]:
        with VARIANTS.get(name, nullcontext)():
            return measure(folder, [*common, *FLAGS.get(name, "").split()], seed)

    cases = [(name, data) for name in (*FLAGS, *VARIANTS) for data in flags.sets]
    jobs = [
        (data, name, seed, partial(train, flags.data_root / data, name))
        for name, data in cases
        for seed in range(flags.seeds)
    ]
    print_table(measure_missing(jobs, flags.output_file), flags.sets)


@contextmanager
def after_init(change: Callable[[Any, Any], None]) -> Iterator[None]:
    """Change each new block, given the block and its configuration, before its weights are initialised."""
    from hf_rnn.models.blocks_rnn import ResidualBlock

    original = ResidualBlock.__init__

    def initialise(block: Any, config: Any) -> None:
        original(block, config)
        change(block, config)

    with mock.patch.object(ResidualBlock, "__init__", initialise):
        yield


def without_gate() -> Any:
    """Leave out the gate: the states go to the output projection as they are."""
    import torch

    class One(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.ones((), dtype=inputs.dtype)

    def change(block: Any, _: Any) -> None:
        block.up_proj = torch.nn.Sequential(block.up_proj, block.activation)
        block.gate_proj, block.activation = One(), torch.nn.Identity()

    return after_init(change)


def without_mlp() -> Any:
    """Leave out the MLP: its last layer gives zero."""
    import torch

    class Zero(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.zeros((), dtype=inputs.dtype)

    def change(block: Any, _: Any) -> None:
        block.mlp_norm, block.up_proj, block.down_proj = torch.nn.Identity(), torch.nn.Identity(), Zero()

    return after_init(change)


def rms_norm() -> Any:
    """Normalise by the root mean square alone (Zhang and Sennrich 2019, arxiv.org/abs/1910.07467)."""
    import torch

    def change(block: Any, config: Any) -> None:
        block.input_norm = torch.nn.RMSNorm(config.stream_size, eps=config.layer_norm_eps)
        block.mlp_norm = torch.nn.RMSNorm(config.stream_size, eps=config.layer_norm_eps)

    return after_init(change)


def gated_mlp() -> Any:
    """Gate the MLP, with as many weights (Shazeer 2020, arxiv.org/abs/2002.05202)."""
    import torch

    class Gated(torch.nn.Module):
        def __init__(self, size: int, inner: int) -> None:
            super().__init__()
            self.up, self.gate = torch.nn.Linear(size, inner), torch.nn.Linear(size, inner)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.up(inputs) * torch.nn.functional.silu(self.gate(inputs))

    class Branch(torch.nn.Module):
        def __init__(self, block: Any, size: int) -> None:
            super().__init__()
            inner = 4 * size // 3
            self.gated, self.down = Gated(size, inner), torch.nn.Linear(inner, size)
            self.down.init_scale = block.down_proj.init_scale

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.down(self.gated(inputs))

    def change(block: Any, config: Any) -> None:
        block.down_proj, block.up_proj = Branch(block, config.stream_size), torch.nn.Identity()
        block.gate_proj = torch.nn.Sequential(block.gate_proj, block.activation)
        block.activation = torch.nn.Identity()

    return after_init(change)


@contextmanager
def equal_memories() -> Iterator[None]:
    """Start all units with the memory that torch's initialisation gives, of about two tokens."""
    from hf_rnn.models.cells_rnn import RecurrentCell

    with mock.patch.object(RecurrentCell, "spread_memory", lambda *_: None):
        yield


VARIANTS = {
    "without gate": without_gate,
    "without MLP": without_mlp,
    "RMSNorm": rms_norm,
    "gated MLP": gated_mlp,
    "equal memories at first": equal_memories,
}

if __name__ == "__main__":
    run(main)
