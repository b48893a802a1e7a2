"""Train the same settings with several seeds and print the mean scores on the validation split.

    python scripts/measure_seeds.py --seeds 5 --data_dir DIR
    python scripts/measure_seeds.py --seeds 3 --data_dir DIR --recipe default --pooling mean_max

All other flags are those of `hf-rnn train`. One run says little on small data: the table that a recipe shows in its
comment comes from here. Runs on one core; seconds are wall time of the training alone.
"""

import argparse
import statistics
import sys
import tempfile

SCORES = ("accuracy", "macro_recall", "macro_f1")


def main() -> None:
    """Train, and print a line a seed on stderr and the mean on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    own, flags = parser.parse_known_args()
    if own.seeds < 1:
        parser.error(f"--seeds must be at least 1, found {own.seeds}")

    import torch

    from hf_rnn import train
    from hf_rnn.arguments import parse_argv
    from hf_rnn.errors import UserError

    torch.set_num_threads(own.threads)
    runs = []
    for seed in range(own.seeds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                settings = parse_argv([*flags, "--seed", str(seed), "--output_dir", folder, "--disable_tqdm", "true"])
                metrics = train(*settings).metrics
            except UserError as error:
                parser.error(str(error))
        runs.append([*(metrics["validation"][name] for name in SCORES), metrics["training"]["seconds"]])
        scores = "  ".join(f"{name} {value:.4f}" for name, value in zip(SCORES, runs[-1], strict=False))
        print(f"seed {seed}: {scores}  seconds {runs[-1][-1]:.0f}", file=sys.stderr)
    columns = list(zip(*runs, strict=True))
    print(f"| seeds | {' | '.join(SCORES)} | seconds |\n|{'---|' * (len(SCORES) + 2)}")
    means = [f"{statistics.mean(column):.3f} ± {statistics.pstdev(column):.3f}" for column in columns[:-1]]
    print(f"| {own.seeds} | {' | '.join(means)} | {statistics.mean(columns[-1]):.0f} |")


if __name__ == "__main__":
    main()
