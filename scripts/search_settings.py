"""Search settings of the recurrent classifier with the Trainer's own `hyperparameter_search` and Optuna.

    pip install '.[search]'
    python scripts/search_settings.py --data_dir DIR --normalizer tweet --trials 20 --output_file found.yaml
    hf-rnn train --recipe found.yaml --data_dir DIR --output_dir out/found

The first trial is recipe `default`; the others change what `suggest` names, which is the place to edit. A score is the
macro-F1 on the validation split after a trial's best epoch, the one that a training keeps. Once five trials are
complete, those below the median of the others at the same epoch end early, from the third epoch on. The file that is
written is a recipe that trains the best trial again, number for number: all have one seed and one thread. Ctrl-C ends
the search, and the best trial until then is written.

The best of many trials is best partly by luck: on a small validation split, differences under about 0.01 are noise.
Confirm what was found, beside what it is to replace, with `scripts/measure_seeds.py --seeds 5 --recipe found.yaml`.
The test split is never read here, so that it can still judge in the end.
"""

import dataclasses
import logging
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import command_line


def suggest(trial: Any) -> dict[str, Any]:
    """Return the settings that a trial tries, by their names in a recipe; asked again, it answers the same."""
    values = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "hidden_size": trial.suggest_categorical("hidden_size", [32, 64, 128]),
        "word_dropout": trial.suggest_float("word_dropout", 0.0, 0.5, step=0.1),
        "embedding_dropout": trial.suggest_float("embedding_dropout", 0.2, 0.9, step=0.1),
        "class_weight_power": trial.suggest_float("class_weight_power", 0.0, 1.0, step=0.1),
        "label_smoothing_factor": trial.suggest_float("label_smoothing_factor", 0.0, 0.2, step=0.05),
    }
    # three digits are enough, and can be written down without loss
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}


def make_parser() -> command_line.Parser:
    """Declare the flags."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_max_bad_rows()
    parser.add_argument("--normalizer", default="none", help="none, semeval or tweet (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="the first is the recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of each trial (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, default=Path("found.yaml"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of trials and trainings (default: %(default)s)")
    return parser


def main() -> None:
    """Search, print the best trial, write it down as a recipe."""
    parser = make_parser()
    args = parser.parse_args()
    for flag, number in {"trials": args.trials, "epochs": args.epochs}.items():
        if number < 1:
            parser.error(f"--{flag} must be at least 1, found {number}")
    if args.output_file.suffix not in (".yaml", ".yml") or not args.output_file.parent.is_dir():
        parser.error(f"--output_file must be a .yaml file in a folder that is there, found {args.output_file}")
    if args.output_file.exists():
        parser.error(f"{args.output_file} is there already: choose another --output_file")
    try:
        import optuna
    except ImportError:
        parser.error("optuna is not installed: pip install '.[search]'")

    import torch
    import yaml
    from transformers import set_seed

    import hf_rnn
    from hf_rnn.training.arguments.run_arguments import parse_settings
    from hf_rnn.training.build_tokenizer import make_tokenizer
    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(1)
    # What all trials share, and the recipe has in the end. The pruner takes the place of early stopping.
    fixed = {"recipe": "default", "normalizer": args.normalizer, "num_train_epochs": args.epochs, "seed": args.seed}
    fixed["early_stopping_patience"] = 0
    no_checkpoints = {"save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        try:
            texts = hf_rnn.load_tsv(args.data_dir, splits=("train", "validation"), max_bad_rows=args.max_bad_rows)
            model_args, data_args, training_args = parse_settings({**fixed, **no_checkpoints, "output_dir": folder})
            tokenizer = make_tokenizer(data_args, texts["train"]["text"])
        except UserError as error:
            parser.refuse(error)
        data = hf_rnn.encode(texts, tokenizer)
        names = texts["train"].features["label"].names
        start = {**dataclasses.asdict(model_args), "vocab_size": len(tokenizer), "id2label": dict(enumerate(names))}

        def model_init(trial: Any) -> hf_rnn.RnnForSequenceClassification:
            tried = {} if trial is None else suggest(trial)  # None when the Trainer is made
            config = hf_rnn.RnnConfig(**{name: tried.get(name, value) for name, value in start.items()})
            model = hf_rnn.RnnForSequenceClassification(config)
            set_seed(args.seed)  # as a Trainer does that is given a model: the recipe then trains the same
            return model

        def scores(result: Any) -> dict[str, float]:
            found = hf_rnn.classification_metrics(result.predictions.argmax(axis=-1), result.label_ids, names)
            return {"macro_f1": found["macro_f1"]}

        def forget_interruptions(record: logging.LogRecord) -> bool:
            """Drop Optuna's report of Ctrl-C, which it takes for a trial's error."""
            return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))

        def best_epoch(_: dict[str, float]) -> float:
            return max(line["eval_macro_f1"] for line in trainer.state.log_history if "eval_macro_f1" in line)

        examples = {"train_dataset": data["train"], "eval_dataset": data["validation"], "processing_class": tokenizer}
        trainer = hf_rnn.RnnTrainer(args=training_args, model_init=model_init, compute_metrics=scores, **examples)
        trainer.silence()
        epoch = -(-len(data["train"]) // training_args.per_device_train_batch_size)  # in steps
        search: dict[str, Any] = {"study_name": "settings", "storage": optuna.storages.InMemoryStorage()}
        study = optuna.create_study(direction="maximize", **search)
        study.enqueue_trial(suggest(optuna.trial.FixedTrial({**vars(model_args), **vars(training_args)})))
        logging.getLogger("optuna.study._optimize").addFilter(forget_interruptions)
        exit_code = 0
        try:
            trainer.hyperparameter_search(
                backend="optuna",
                hp_space=lambda trial: {name: value for name, value in suggest(trial).items() if name not in start},
                compute_objective=best_epoch,
                n_trials=args.trials,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=args.seed),
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=2 * epoch + 1),
                load_if_exists=True,
                **search,
            )
        except KeyboardInterrupt as stop:  # what the trials before have found is not lost
            exit_code = getattr(stop, "exit_code", 130)
    count = {state: sum(trial.state == state for trial in study.trials) for state in optuna.trial.TrialState}
    complete, pruned = count[optuna.trial.TrialState.COMPLETE], count[optuna.trial.TrialState.PRUNED]
    if not complete:
        print("stopped before a trial was complete: nothing was written", file=sys.stderr)
        sys.exit(exit_code)
    best = study.best_trial
    found = suggest(optuna.trial.FixedTrial(best.params))
    summary = f"trial {best.number} of {complete + pruned} ({pruned} ended early): macro_f1 {best.value:.4f}"
    recipe = yaml.safe_dump({**fixed, **found}, sort_keys=False)
    print(f"recipe default: macro_f1 {study.trials[0].value:.4f}\nbest is {summary}\n{recipe}", flush=True)
    try:
        with args.output_file.open("x", encoding="utf-8") as file:  # another search may have written it meanwhile
            file.write(f"# best is {summary}\n{recipe}")
    except OSError as error:  # the recipe stands above
        parser.error(f"--output_file {args.output_file} cannot be written: {error.strerror}")
    command = ["hf-rnn", "train", "--recipe", str(args.output_file), "--data_dir", str(args.data_dir)]
    command += ["--max_bad_rows", args.max_bad_rows] if args.max_bad_rows != "0" else []
    print(shlex.join([*command, "--output_dir", f"out/{args.output_file.stem}"]))
    if exit_code:
        print(f"stopped after {complete + pruned} of {args.trials} trials", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    command_line.run(main)
