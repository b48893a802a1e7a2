"""Train the same settings with several seeds and print the scores on the validation split: mean ± standard deviation.

    python scripts/measure_seeds.py --seeds 5 --data_dir DIR
    python scripts/measure_seeds.py --seeds 3 --data_dir DIR --recipe default --pooling mean_max
    python scripts/measure_seeds.py --seeds 10 --data_dir DIR --recipe fast --against "--recipe default"

All other flags are those of `hf-rnn train`. One run says little on small data: the table that a recipe shows in its
comment comes from here. The deviation is that of these seeds (their sum of squares is divided by how many they are);
an estimate for other seeds divides by one less, and is 1.12 times as much for five, 1.22 times for three. With
--against other settings are trained too, each seed with both, and the mean difference is printed with its 95 %
interval (Student's t over the seeds). Runs on one core; seconds are wall time of the training alone. After Ctrl-C the
table is of the seeds that were complete.
"""

import importlib.util
import shlex
import statistics
import sys
import tempfile
from typing import Any

import command_line

SCORES = ("accuracy", "macro_recall", "macro_f1")


def _joined(argv: list[str]) -> list[str]:
    """The flags with those of --against in one piece with it: alone, one with dashes would be taken for the next."""
    if "--against" not in argv[:-1]:
        return argv
    place = argv.index("--against")
    return [*argv[:place], f"--against={argv[place + 1]}", *argv[place + 2 :]]


def main() -> None:
    """Train, and print a line a seed on stderr and the mean on stdout."""
    parser = command_line.Parser(__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--against", metavar="FLAGS", help="flags that change the settings to compare with, in quotes")
    own, flags = parser.parse_known_args(_joined(sys.argv[1:]))
    if own.seeds < 1:
        parser.error(f"--seeds must be at least 1, found {own.seeds}")
    if own.threads < 1:
        parser.error(f"--threads must be at least 1, found {own.threads}")
    if own.against is not None and own.seeds < 2:
        parser.error(f"an interval needs --seeds 2 or more, found {own.seeds}")
    if own.against is not None and importlib.util.find_spec("scipy") is None:
        parser.error("--against needs scipy: pip install '.[baselines]'")

    import torch

    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(own.threads)
    try:
        sides = [flags] if own.against is None else [flags, [*flags, *shlex.split(own.against)]]
    except ValueError as error:
        parser.error(f"--against {own.against}: {error}")
    for flag in sides[-1]:
        if flag.split("=")[0].replace("-", "_") in ("__seed", "__output_dir"):
            parser.error(f"{flag} is set here for each run: leave it out, and say with --seeds how many there are")
    if own.against is not None and sides[1] == flags:
        parser.error("--against names no flag: say what is to be different, in quotes")
    try:
        for side in sides:  # all of them before the first trains
            read_flags(side, 0, ".")
    except UserError as error:
        parser.error(str(error))
    runs: list[list[list[float]]] = [[] for _ in sides]  # by side and seed the scores and the seconds
    exit_code = 0
    try:
        for seed in range(own.seeds):
            for side, done in zip(sides, runs, strict=True):
                done.append(train_once(side, seed))
                scores = "  ".join(f"{name} {value:.4f}" for name, value in zip(SCORES, done[-1], strict=False))
                which = "" if len(sides) == 1 else f"{'against' if side is sides[-1] else 'ours'}: "
                print(f"seed {seed}: {which}{scores}  seconds {done[-1][-1]:.0f}", file=sys.stderr)
    except UserError as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:  # what the seeds before have told is not lost
        exit_code = getattr(stop, "exit_code", 130)
    if complete := len(runs[-1]):
        tell([done[:complete] for done in runs])
    if exit_code:
        print(f"stopped after {complete} of {own.seeds} seeds", file=sys.stderr)
        sys.exit(exit_code)


def tell(runs: list[list[list[float]]]) -> None:
    """Print the table of one side, or of two and what lies between them."""
    print(f"| seeds | {' | '.join(SCORES)} | seconds |\n|{'---|' * (len(SCORES) + 2)}")
    for done in runs:
        columns = list(zip(*done, strict=True))
        means = [f"{statistics.mean(column):.3f}" for column in columns[:-1]]
        if len(done) > 1:  # one seed does not tell how far it is from others
            means = [f"{mean} ± {statistics.pstdev(one):.3f}" for mean, one in zip(means, columns, strict=False)]
        print(f"| {len(done)} | {' | '.join(means)} | {statistics.mean(columns[-1]):.0f} |")
    if len(runs) > 1 and len(runs[0]) > 1:
        cells = [difference(*pair) for pair in zip(*(zip(*done, strict=True) for done in runs), strict=True)]
        print(f"| difference | {' | '.join(cells[:-1])} | |")


def train_once(flags: list[str], seed: int) -> list[float]:
    """Scores on the validation split, and the seconds of the training."""
    from hf_rnn import train

    with tempfile.TemporaryDirectory() as folder:
        metrics = train(*read_flags(flags, seed, folder)).metrics
    return [*(metrics["validation"][name] for name in SCORES), metrics["training"]["seconds"]]


def read_flags(flags: list[str], seed: int, folder: str) -> Any:
    """Typed arguments of a run."""
    from hf_rnn.training.arguments.run_arguments import parse_argv

    return parse_argv([*flags, "--seed", str(seed), "--output_dir", folder, "--disable_tqdm", "true"])


def difference(ours: list[float], against: list[float]) -> str:
    """Mean of the differences seed by seed, with its 95 % interval."""
    from results_report import interval

    mean, half = interval([one - other for one, other in zip(ours, against, strict=True)])
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


if __name__ == "__main__":
    command_line.run(main)
