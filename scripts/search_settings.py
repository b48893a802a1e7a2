"""Search settings of the recurrent classifier with Optuna; each trial is a run of `hf-rnn train`.

    pip install '.[search]'
    python scripts/search_settings.py --data_dir DIR --trials 20 --output_file found.yaml
    hf-rnn train --recipe found.yaml --data_dir DIR --output_dir out/found

The first trial is recipe `scratch`; the others change the settings of `suggest`, which you can edit. The score of a
trial is the macro-F1 on the validation split after its best epoch. The written recipe trains the best trial again,
number for number, on one thread. Ctrl-C ends the search and keeps the best trial so far.

On a small validation split, differences under about 0.01 are noise: confirm the result with
`scripts/results/measure_seeds.py --seeds 5 --recipe found.yaml`. The test split is never read.
"""

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.command_line import Parser, positive, run


def suggest(trial: Any) -> dict[str, Any]:
    """Return the settings that a trial tries, by their names in a recipe."""
    values = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "hidden_size": trial.suggest_categorical("hidden_size", [32, 64, 128]),
        "word_dropout": trial.suggest_float("word_dropout", 0.0, 0.5, step=0.1),
        "embedding_dropout": trial.suggest_float("embedding_dropout", 0.2, 0.9, step=0.1),
        "class_weight_power": trial.suggest_float("class_weight_power", 0.0, 1.0, step=0.1),
        "label_smoothing_factor": trial.suggest_float("label_smoothing_factor", 0.0, 0.2, step=0.05),
    }
    # three digits, so that a recipe holds the exact value
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}


def make_parser() -> Parser:
    """Declare the flags."""
    parser = Parser(__doc__)
    parser.add_data_dir(required=True)
    parser.add_argument("--normalizer", default="tweet", help="tweet, none or semeval (default: %(default)s)")
    parser.add_argument("--trials", type=positive, default=20, help="the first is the recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, default=10, help="epochs per trial (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, default=Path("found.yaml"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of trials and trainings (default: %(default)s)")
    return parser


def main() -> int:
    """Search, print the best trial and write it as a recipe."""
    parser = make_parser()
    args = parser.parse_args()
    if args.output_file.suffix not in (".yaml", ".yml") or args.output_file.exists():
        parser.error(f"--output_file must be a new .yaml file, found {args.output_file}")
    try:
        import optuna
    except ImportError:
        parser.error("optuna is not installed: pip install '.[search]'")

    import torch
    import yaml

    import hf_rnn
    from hf_rnn.training.recipes import load_recipe

    torch.set_num_threads(1)
    fixed = {"recipe": "scratch", "normalizer": args.normalizer, "num_train_epochs": args.epochs, "seed": args.seed}
    texts = hf_rnn.load_tsv(args.data_dir, splits=("train", "validation"), max_bad_rows=args.max_bad_rows)

    def measure(trial: Any) -> float:
        """Train with the settings of a trial; return the macro-F1 of its best epoch."""
        with tempfile.TemporaryDirectory() as folder:
            settings = {**fixed, **suggest(trial), "output_dir": folder, "baselines": False, "card_examples": False}
            return hf_rnn.train(dict(texts), **settings).metrics["validation"]["macro_f1"]

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=args.seed))
    study.enqueue_trial(suggest(optuna.trial.FixedTrial(load_recipe("scratch"))))
    code = 0
    try:
        study.optimize(measure, n_trials=args.trials)
    except KeyboardInterrupt:
        code = 130
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not complete:
        print("stopped before a trial was complete: nothing was written", file=sys.stderr)
        return code
    best = study.best_trial
    summary = f"trial {best.number} of {len(complete)}: macro_f1 {best.value:.4f}"
    recipe = yaml.safe_dump({**fixed, **suggest(optuna.trial.FixedTrial(best.params))}, sort_keys=False)
    print(f"recipe scratch: macro_f1 {study.trials[0].value:.4f}\nbest is {summary}\n{recipe}", flush=True)
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    args.output_file.write_text(f"# best is {summary}\n{recipe}", encoding="utf-8")
    command = ["hf-rnn", "train", "--recipe", str(args.output_file), "--data_dir", str(args.data_dir)]
    command += ["--max_bad_rows", args.max_bad_rows] if args.max_bad_rows != "0" else []
    print(shlex.join([*command, "--output_dir", f"out/{args.output_file.stem}"]))
    return code


if __name__ == "__main__":
    run(main)
