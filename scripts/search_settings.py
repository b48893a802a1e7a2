"""Search settings of the recurrent classifier with the Trainer's `hyperparameter_search` and Optuna.

    pip install '.[search]'
    python scripts/search_settings.py --data_dir DIR --normalizer tweet --trials 20 --output_file found.yaml
    hf-rnn train --recipe found.yaml --data_dir DIR --output_dir out/found

The first trial is recipe `scratch`; the others change the settings of `suggest`, which you can edit. The score of a
trial is the macro-F1 on the validation split after its best epoch. After five complete trials, a trial ends early if
it is below the median of the others at the same epoch, from the third epoch. The written recipe trains the best
trial again, number for number, on one thread. Ctrl-C ends the search and keeps the best trial so far.

On a small validation split, differences under about 0.01 are noise: confirm the result with
`scripts/results/measure_seeds.py --seeds 5 --recipe found.yaml`. The test split is never read.
"""

import dataclasses
import logging
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
    parser.add_argument("--normalizer", default="none", help="none, semeval or tweet (default: %(default)s)")
    parser.add_argument("--trials", type=positive, default=20, help="the first is the recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, default=10, help="epochs per trial (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, default=Path("found.yaml"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of trials and trainings (default: %(default)s)")
    return parser


def main() -> int:
    """Search, print the best trial and write it as a recipe."""
    parser = make_parser()
    args = parser.parse_args()
    if args.output_file.suffix not in (".yaml", ".yml") or not args.output_file.absolute().parent.is_dir():
        parser.error(f"--output_file must be a .yaml file in an existing folder, found {args.output_file}")
    if args.output_file.exists():
        parser.error(f"--output_file {args.output_file} exists: give a new one")
    try:
        import optuna
    except ImportError:
        parser.error("optuna is not installed: pip install '.[search]'")

    import torch
    import yaml
    from transformers import set_seed

    import hf_rnn
    from hf_rnn.training.arguments.run_arguments import parse_settings
    from hf_rnn.training.build import make_tokenizer

    torch.set_num_threads(1)
    # Settings of all trials, which the written recipe holds too. The pruner replaces early stopping.
    fixed = {"recipe": "scratch", "normalizer": args.normalizer, "num_train_epochs": args.epochs, "seed": args.seed}
    fixed["early_stopping_patience"] = 0
    no_checkpoints = {"save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        texts = hf_rnn.load_tsv(args.data_dir, splits=("train", "validation"), max_bad_rows=args.max_bad_rows)
        model_args, data_args, training_args = parse_settings({**fixed, **no_checkpoints, "output_dir": folder})
        tokenizer = make_tokenizer(data_args, texts["train"]["text"])
        data = hf_rnn.encode(texts, tokenizer)
        names = texts["train"].features["label"].names
        start = {**dataclasses.asdict(model_args), "vocab_size": len(tokenizer), "id2label": dict(enumerate(names))}

        def model_init(trial: Any) -> hf_rnn.RnnForSequenceClassification:
            tried = {} if trial is None else suggest(trial)  # None when the Trainer is created
            config = hf_rnn.RnnConfig(**{name: tried.get(name, value) for name, value in start.items()})
            model = hf_rnn.RnnForSequenceClassification(config)
            set_seed(args.seed)  # as for a Trainer that gets a model, so that the recipe trains the same
            return model

        def compute_metrics(result: Any) -> dict[str, float]:
            found = hf_rnn.classification_metrics(result.predictions.argmax(axis=-1), result.label_ids, names)
            return {"macro_f1": found["macro_f1"]}

        def best_epoch(_: dict[str, float]) -> float:
            return max(line["eval_macro_f1"] for line in trainer.state.log_history if "eval_macro_f1" in line)

        examples = {"train_dataset": data["train"], "eval_dataset": data["validation"], "processing_class": tokenizer}
        trainer = hf_rnn.RnnTrainer(
            args=training_args, model_init=model_init, compute_metrics=compute_metrics, **examples
        )
        trainer.silence()
        steps = -(-len(data["train"]) // training_args.per_device_train_batch_size)  # per epoch
        search: dict[str, Any] = {"study_name": "settings", "storage": optuna.storages.InMemoryStorage()}
        study = optuna.create_study(direction="maximize", **search)
        study.enqueue_trial(suggest(optuna.trial.FixedTrial({**vars(model_args), **vars(training_args)})))
        # Optuna logs Ctrl-C as an error of the trial
        logging.getLogger("optuna.study._optimize").addFilter(
            lambda record: not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))
        )
        try:
            trainer.hyperparameter_search(
                backend="optuna",
                hp_space=lambda trial: {name: value for name, value in suggest(trial).items() if name not in start},
                compute_objective=best_epoch,
                n_trials=args.trials,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=args.seed),
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=2 * steps + 1),
                load_if_exists=True,
                **search,
            )
        except KeyboardInterrupt:
            code = 130
    count = {state: sum(trial.state == state for trial in study.trials) for state in optuna.trial.TrialState}
    complete, pruned = count[optuna.trial.TrialState.COMPLETE], count[optuna.trial.TrialState.PRUNED]
    if not complete:
        print("stopped before a trial was complete: nothing was written", file=sys.stderr)
        return code
    best = study.best_trial
    found = suggest(optuna.trial.FixedTrial(best.params))
    summary = f"trial {best.number} of {complete + pruned} ({pruned} ended early): macro_f1 {best.value:.4f}"
    recipe = yaml.safe_dump({**fixed, **found}, sort_keys=False)
    print(f"recipe scratch: macro_f1 {study.trials[0].value:.4f}\nbest is {summary}\n{recipe}", flush=True)
    args.output_file.write_text(f"# best is {summary}\n{recipe}", encoding="utf-8")
    command = ["hf-rnn", "train", "--recipe", str(args.output_file), "--data_dir", str(args.data_dir)]
    command += ["--max_bad_rows", args.max_bad_rows] if args.max_bad_rows != "0" else []
    print(shlex.join([*command, "--output_dir", f"out/{args.output_file.stem}"]))
    if code:
        print(f"stopped after {complete + pruned} of {args.trials} trials", file=sys.stderr)
    return code


if __name__ == "__main__":
    run(main)
