"""Break training runs, resume them, and compare the result with an undisturbed run.

    python scripts/inject_faults.py                     # all faults, about two minutes on one core
    python scripts/inject_faults.py kill write          # some faults
    python scripts/inject_faults.py --tries 3 --json

Training is `hf-rnn train` with recipe `scratch` on invented texts, made small; every second run saves within epochs. A
fault is survived if the resumed run ends with the same weights, bit for bit, the same scores and the same log, or if
resuming is refused with one line before any checkpoint was complete. Exit code 1 if anything was lost.
"""

import gc
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # no threads before a fork
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from common.command_line import Parser, positive, run

SETTINGS = [
    "--recipe=scratch",
    "--embedding_size=16",
    "--hidden_size=8",
    "--per_device_train_batch_size=16",
    "--use_cpu",
    "--keep_checkpoints",
]
SETTINGS += ["--num_train_epochs=4", "--learning_rate=0.02", "--baselines=false", "--card_examples=false"]
BY_STEPS = ["--save_strategy=steps", "--save_steps=7", "--eval_strategy=steps", "--eval_steps=7"]
PROFILES = {"epochs": SETTINGS, "steps": SETTINGS + BY_STEPS}
STATES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
NEUTRAL = ["the", "box", "of", "dry", "sand", "near", "a", "door", "and", "it", "was", "there", "for", "days"]


class Lost(Exception):
    """A fault did harm."""


class Run:
    """One training process, which reports the start and end of each checkpoint through a pipe."""

    def __init__(self, output: Path, flags: list[str]) -> None:
        self.output, self.log = output, output.with_suffix(".log")
        self.writing, self.writes = False, 0
        self.code: int | None = None
        self.times: list[float] = []  # starts and ends of its writes
        self.start = time.monotonic()
        self._read, pipe = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _train_and_exit([f"--output_dir={output}", *flags], self.log, pipe)
        os.close(pipe)

    def watch(self, until: Callable[["Run"], bool] = lambda run: False, seconds: float = 300) -> bool:
        """Wait for a condition, some seconds, or the end of the process; return whether it is still running."""
        end = time.monotonic() + seconds
        while not until(self) and (left := end - time.monotonic()) > 0:
            if not select.select([self._read], [], [], left)[0]:
                return True
            event = os.read(self._read, 1)
            if not event:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
                os.close(self._read)
                return False
            self.writing = event == b"w"
            self.writes += event == b"d"
            self.times.append(time.monotonic() - self.start)
        return True

    def end(self, number: int | None = None) -> int:
        """Send a signal, if given, and wait for the end; return the exit code, a signal's number as a negative one."""
        if self.code is None:
            if number is not None:
                os.kill(self.process, number)
            if self.watch():
                os.kill(self.process, signal.SIGKILL)
                raise Lost(f"does not end, see {self.log}")
        return self.code or 0

    def lines(self, part: str) -> list[str]:
        """Return the lines of its output that contain a text."""
        return [line for line in self.log.read_text("utf-8", "replace").splitlines() if part in line]


def _train_and_exit(flags: list[str], log: Path, pipe: int) -> None:
    """Train in the child process as the command does."""
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        from hf_rnn.cli.main import main
        from hf_rnn.training.trainer import RnnTrainer

        save = RnnTrainer._save_checkpoint

        def save_and_report(self: RnnTrainer, *args: Any, **kwargs: Any) -> None:
            os.write(pipe, b"w")
            try:
                save(self, *args, **kwargs)
            finally:
                os.write(pipe, b"d")

        RnnTrainer._save_checkpoint = save_and_report  # type: ignore[method-assign]
        os._exit(main(["train", *flags]))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(70)


def list_checkpoints(output: Path) -> list[Path]:
    """Return the checkpoints of a run, newest last."""
    return sorted(output.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def read_outcome(output: Path) -> dict[str, Any]:
    """Return weights, scores and the log of a run, without times."""
    metrics, newest = json.loads((output / "metrics.json").read_text("utf-8")), list_checkpoints(output)[-1]
    metrics["training"].pop("seconds")
    log = json.loads((newest / "trainer_state.json").read_text("utf-8"))["log_history"]
    for entry in log:
        for name in [name for name in entry if name.endswith(("runtime", "per_second"))]:
            del entry[name]
    files = [output / "model.safetensors", *(newest / name for name in STATES)]
    hashes = {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {"metrics": metrics, "log": log, **hashes}


class Bench:
    """Runs training with a fault, resumes it, and compares the outcome."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.number = root, random.Random(seed), 0
        (root / "texts").mkdir()
        for name, count in (("train", 240), ("dev", 60), ("test", 60)):
            (root / "texts" / f"{name}.tsv").write_text("".join(map(self._invent, range(count))), encoding="utf-8")
        self.expected: dict[str, dict[str, Any]] = {}
        self.times: dict[str, list[float]] = {}
        for profile in PROFILES:
            for _ in range(2):  # undisturbed runs must agree
                training = self.start(profile)
                if training.end() != 0:
                    raise SystemExit(f"the undisturbed run failed, see {training.log}")
                if self.expected.setdefault(profile, found := read_outcome(training.output)) != found:
                    raise SystemExit("two undisturbed runs differ")
                self.times[profile] = [*training.times, time.monotonic() - training.start]

    def _invent(self, number: int) -> str:
        """Return a line whose label follows from one invented word."""
        words = self.random.choices(NEUTRAL, k=self.random.randrange(1, 12))
        label, word = (("bad", "selk"), ("good", "miro"), ("plain", ""))[number % 3]
        return f"{' '.join(words)} {word}".rstrip() + f"\t{label}\n"

    def start(self, profile: str, output: Path | None = None, *flags: str) -> Run:
        """Start a run, by default in a new folder."""
        self.number += 1
        given = [f"--data_dir={self.root / 'texts'}", *PROFILES[profile], *flags]
        return Run(output or self.root / f"run-{self.number}", given)

    def resume(self, profile: str, broken: Run, may_refuse: bool = False) -> str:
        """Resume a run; return `same`, or `refused` after a refusal in one line and a new start."""
        training = self.start(profile, broken.output, "--resume")
        refused = training.end() == 2 and len(training.lines("hf-rnn train: error: ")) == 1
        if refused and may_refuse and not training.lines("Traceback"):
            training = self.start(profile, broken.output, "--overwrite_output_dir")
        if training.end() != 0:
            raise Lost(f"resuming ended with {training.code}, see {training.log}")
        found = read_outcome(broken.output)
        if differ := [name for name, value in self.expected[profile].items() if found.get(name) != value]:
            raise Lost(f"{broken.output}: other {', '.join(differ)}")
        shutil.rmtree(broken.output)
        return "refused" if refused else "same"


def kill(bench: Bench, profile: str) -> str:
    """Send SIGKILL at a random moment after the start."""
    times, training = bench.times[profile], bench.start(profile)
    training.watch(seconds=bench.random.uniform(0.8 * times[0], times[-1]))
    training.end(signal.SIGKILL)
    return bench.resume(profile, training, may_refuse=not training.writes)


def write(bench: Bench, profile: str) -> str:
    """Send SIGKILL at a random moment while a checkpoint is written."""
    times, training = bench.times[profile], bench.start(profile)
    save = bench.random.randrange(len(times) // 2)
    seconds = bench.random.uniform(0, 0.8 * (times[2 * save + 1] - times[2 * save]))
    training.watch(until=lambda one: one.writing and one.writes == save)
    training.watch(until=lambda one: not one.writing, seconds=seconds)
    inside = training.writing
    training.end(signal.SIGKILL)
    if not inside:  # another moment is not counted
        shutil.rmtree(training.output, ignore_errors=True)
        return write(bench, profile)
    return bench.resume(profile, training, may_refuse=not training.writes)


def stop(bench: Bench, profile: str) -> str:
    """Send SIGTERM or Ctrl-C; the run must print one line with the command to resume."""
    times, training = bench.times[profile], bench.start(profile)
    saved = bench.random.randrange(1, len(times) // 2 - 1)
    training.watch(until=lambda one: one.writes == saved)
    training.watch(seconds=bench.random.uniform(0, times[2 * saved] - times[2 * saved - 1]))
    number = bench.random.choice([signal.SIGTERM, signal.SIGINT])
    if training.end(number) != 128 + number or len(training.lines("--resume")) != 1:
        raise Lost(f"ended with {training.code}, see {training.log}")
    return bench.resume(profile, training)


def damage(bench: Bench, profile: str) -> str:
    """Truncate, delete or change a file of the newest of several checkpoints."""
    training = bench.start(profile)
    training.watch(until=lambda one: one.writes == 3)
    training.end(signal.SIGKILL)
    path = bench.random.choice([*list_checkpoints(training.output)[-1].iterdir()])
    content, harm = bytearray(path.read_bytes()), bench.random.randrange(3)
    path.unlink()
    if harm:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == 1 else content[: len(content) // 2])
    return bench.resume(profile, training)


FAULTS = {
    "kill": ("kill -9 at a random moment", kill, 15),
    "write": ("kill -9 inside a write", write, 10),
    "stop": ("SIGTERM or Ctrl-C", stop, 12),
    "damage": ("a damaged file of the newest checkpoint", damage, 16),
}


def count(bench: Bench, fault: str, tries: int | None) -> dict[str, Any]:
    """Return the row of a fault: its tries up to the first that is lost."""
    title, inject, usual = FAULTS[fault]

    def attempts() -> Iterator[str]:
        for number in range(tries or usual):
            yield inject(bench, list(PROFILES)[number % 2])

    results: list[Any] = []
    reasons: list[Any] = []
    try:
        results.extend(attempts())
    except Lost as lost:
        reasons.append(str(lost))
    tried, refused = len(results) + len(reasons), results.count("refused")
    row = {"fault": title, "tried": tried, "survived": len(results), "lost": len(reasons), "refused": refused}
    return {**row, "reasons": reasons}


def main() -> int:
    """Run the faults and print the table."""
    parser = Parser(__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)} (default: all)")
    parser.add_argument("--tries", type=positive, help="tries per fault (default: 10 to 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--json", action="store_true", help="print JSON")
    flags = parser.parse_args()
    if unknown := set(flags.faults) - set(FAULTS):
        parser.error(f"unknown fault: found {', '.join(unknown)}; choose from {', '.join(FAULTS)}")
    if not hasattr(os, "fork"):
        parser.error("this script needs a system that forks")
    import hf_rnn.cli.train
    import hf_rnn.training.save
    import hf_rnn.training.train  # import once, before the forks

    # figures and garbage collection take more than half of the time of such a training
    hf_rnn.training.save.draw_figures = lambda *args: {}
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        bench = Bench(Path(root), flags.seed)
        rows = [count(bench, fault, flags.tries) for fault in flags.faults or FAULTS]
    if flags.json:
        print(json.dumps(rows))
    else:
        print("| fault | tried | survived | lost | of the survived: refused |\n|---|---|---|---|---|")
        for row in rows:
            print("| {fault} | {tried} | {survived} | {lost} | {refused} |".format(**row))
            print(*row["reasons"], sep="\n", end="", file=sys.stderr)
    return int(any(row["lost"] for row in rows))


if __name__ == "__main__":
    run(main)
