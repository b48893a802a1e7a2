"""Train the same settings with several seeds; print mean ± standard deviation of the validation scores.

    python scripts/results/measure_seeds.py --seeds 5 --data_dir DIR
    python scripts/results/measure_seeds.py --seeds 3 --data_dir DIR --recipe scratch --pooling mean_max
    python scripts/results/measure_seeds.py --seeds 10 --data_dir DIR --recipe fast --against "--recipe scratch"

All other flags are those of `hf-rnn train`. The standard deviation is that of these seeds (divided by their number).
With --against each seed is trained with both settings, and the mean difference is printed with its 95 % interval
(Student's t over the seeds). Seconds are wall time of the training. After Ctrl-C the table has the complete seeds.
"""

import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run
from results.report import interval

SCORES = ("accuracy", "macro_recall", "macro_f1")


def main() -> int:
    """Train, print each seed on stderr and the table on stdout."""
    parser = Parser(__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=positive, default=5, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--against", metavar="FLAGS", help="flags that change the settings to compare with, in quotes")
    own, flags = parser.parse_known_args(join_against(sys.argv[1:]))
    if own.against is not None and own.seeds < 2:
        parser.error("--against needs --seeds of at least 2")
    sides = [flags] if own.against is None else [flags, [*flags, *shlex.split(own.against)]]

    import torch

    torch.set_num_threads(own.threads)
    for side in sides:  # report mistakes of both before the first training
        read_flags(side, 0, ".")
    runs: list[list[list[float]]] = [[] for _ in sides]
    code = 0
    try:
        for seed in range(own.seeds):
            for name, side, done in zip(("ours", "against"), sides, runs, strict=False):
                done.append(train_once(side, seed))
                scores = "  ".join(f"{score} {value:.4f}" for score, value in zip(SCORES, done[-1], strict=False))
                print(f"seed {seed}, {name}: {scores}  seconds {done[-1][-1]:.0f}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    if complete := len(runs[-1]):
        print_table([done[:complete] for done in runs])
    if code:
        print(f"stopped after {complete} of {own.seeds} seeds", file=sys.stderr)
    return code


def join_against(argv: list[str]) -> list[str]:
    """Write `--against "--flag value"` as one argument; argparse takes a separate one with dashes for a flag."""
    if "--against" not in argv[:-1]:
        return argv
    place = argv.index("--against")
    return [*argv[:place], f"--against={argv[place + 1]}", *argv[place + 2 :]]


def print_table(runs: list[list[list[float]]]) -> None:
    """Print a row for each side, and the difference of two."""
    print(f"| seeds | {' | '.join(SCORES)} | seconds |\n|{'---|' * (len(SCORES) + 2)}")
    for done in runs:
        columns = list(zip(*done, strict=True))
        means = [f"{statistics.mean(column):.3f}" for column in columns[:-1]]
        if len(done) > 1:
            means = [f"{mean} ± {statistics.pstdev(one):.3f}" for mean, one in zip(means, columns, strict=False)]
        print(f"| {len(done)} | {' | '.join(means)} | {statistics.mean(columns[-1]):.0f} |")
    if len(runs) > 1 and len(runs[0]) > 1:
        cells = [compare(*pair) for pair in zip(*(zip(*done, strict=True) for done in runs), strict=True)]
        print(f"| difference | {' | '.join(cells[:-1])} | |")


def train_once(flags: list[str], seed: int) -> list[float]:
    """Return the validation scores and the seconds of one training."""
    from hf_rnn import train

    with tempfile.TemporaryDirectory() as folder:
        metrics = train(**read_flags(flags, seed, folder)).metrics
    return [*(metrics["validation"][name] for name in SCORES), metrics["training"]["seconds"]]


def read_flags(flags: list[str], seed: int, folder: str) -> dict[str, Any]:
    """Return the settings of a run."""
    from hf_rnn.training.settings import make_parser

    more = ["--seed", str(seed), "--output_dir", folder, "--disable_tqdm", "true"]
    return make_parser("hf-rnn train").parse_flags([*flags, *more])


def compare(ours: list[float], against: list[float]) -> str:
    """Return the mean difference seed by seed with its 95 % interval."""
    mean, half = interval([one - other for one, other in zip(ours, against, strict=True)])
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


if __name__ == "__main__":
    run(main)
