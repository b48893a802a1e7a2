"""Training runs in forked processes that can be stopped at a chosen moment, and the comparison of their results."""

import hashlib
import json
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

os.environ["OMP_NUM_THREADS"] = "1"  # no threads before a fork
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROFILES = {
    "epochs": [],
    "steps": ["--save_strategy=steps", "--save_steps=7", "--eval_strategy=steps", "--eval_steps=7"],
}
SETTINGS = [
    "--recipe=scratch",
    "--embedding_size=16",
    "--hidden_size=8",
    "--per_device_train_batch_size=16",
    "--num_train_epochs=6",
]
SETTINGS += ["--learning_rate=0.02", "--use_cpu", "--keep_checkpoints"]
NEUTRAL = ["the", "box", "of", "dry", "sand", "near", "a", "door", "and", "it", "was", "there", "for", "days"]


class Lost(Exception):
    """A fault did harm."""


def write_texts(folder: Path) -> None:
    """Write texts whose label follows from one invented word."""
    folder.mkdir()
    for name, count, seed in (("train", 240, 1), ("dev", 60, 2), ("test", 60, 3)):
        generator, lines = random.Random(seed), []
        for number in range(count):
            label = ("bad", "good", "plain")[number % 3]
            words = generator.choices(NEUTRAL, k=generator.randrange(1, 12))
            if label != "plain":
                words.insert(generator.randrange(len(words) + 1), "miro" if label == "good" else "selk")
            lines.append(f"{' '.join(words)}\t{label}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8", newline="\n")


class Run:
    """One training process, which reports the start and end of each checkpoint through a pipe.

    Args:
        output: Folder of the model.
        log: File for its output.
        flags: Flags of `hf-rnn train`.
    """

    _running: ClassVar[set[int]] = set()

    def __init__(self, output: Path, log: Path, flags: list[str]) -> None:
        self.log = log
        self.output = output
        self.writing, self.writes = False, 0
        self.code: int | None = None
        self.times: list[float] = []
        self.start = time.monotonic()
        self._read, write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(self._read)
            _train_and_exit([f"--output_dir={output}", *flags], self.log, write)
        os.close(write)
        self._running.add(self.process)

    @classmethod
    @contextmanager
    def end_all(cls) -> Iterator[None]:
        """Kill the runs that are left at the end of the block."""
        try:
            yield
        finally:
            for process in cls._running:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def watch(self, until: Callable[["Run"], bool] = lambda run: False, seconds: float = 300) -> bool:
        """Wait for a condition, some seconds, or the end of the process; return whether it is still running."""
        end = time.monotonic() + seconds
        while not until(self) and (left := end - time.monotonic()) > 0:
            if not select.select([self._read], [], [], left)[0]:
                return True
            event = os.read(self._read, 1)
            if not event:
                status = os.waitpid(self.process, 0)[1]
                self._running.discard(self.process)
                os.close(self._read)
                self.code = os.waitstatus_to_exitcode(status)
                return False
            self.writing = event == b"w"
            self.writes += event == b"d"
            self.times.append(time.monotonic() - self.start)
        return True

    def end(self) -> int:
        """Wait for the end and return the exit code, or the signal's number as a negative one."""
        if self.code is None and self.watch():
            os.kill(self.process, signal.SIGKILL)
            raise Lost(f"does not end, see {self.log}")
        return self.code or 0

    def stop(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.end()

    @property
    def stderr(self) -> str:
        """Output of the process."""
        return self.log.read_text(encoding="utf-8", errors="replace")


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
        import traceback

        os.write(2, traceback.format_exc().encode())
        os._exit(70)


def read_outcome(folder: Path) -> dict[str, Any]:
    """Return weights, scores and the log of a run, without times."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["training"].pop("seconds")
    checkpoints = sorted(folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    log = json.loads((checkpoints[-1] / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    times = ("runtime", "per_second")
    states = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    return {
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": metrics,
        "log": [{name: value for name, value in entry.items() if not name.endswith(times)} for entry in log],
        "states": {name: hashlib.sha256((checkpoints[-1] / name).read_bytes()).hexdigest() for name in states},
    }


class Bench:
    """Runs faults and counts their results.

    Args:
        root: Folder for everything.
        seed: Seed of the random moments.
        profiles: Ways of saving, taken in turn.
    """

    def __init__(self, root: Path, seed: int, profiles: list[str]) -> None:
        self.profiles = profiles
        self.root = root
        self.random = random.Random(seed)
        self.texts = root / "texts"
        write_texts(self.texts)
        self.number = 0
        self.rows: list[dict[str, Any]] = []
        self.expected: dict[str, dict[str, Any]] = {}
        self.times: dict[str, list[float]] = {}
        for profile in self.profiles:
            for _ in range(2):  # undisturbed runs must agree
                training = self.start(profile)
                if training.end() != 0:
                    raise SystemExit(f"the undisturbed run failed:\n{training.stderr}")
                found = read_outcome(training.output)
                if self.expected.setdefault(profile, found) != found:
                    raise SystemExit("two undisturbed runs differ")
                self.times[profile] = [*training.times, time.monotonic() - training.start]
                self.finished = training.output

    def start(self, profile: str, output: Path | None = None, *flags: str) -> Run:
        """Start a run, by default in a new folder."""
        self.number += 1
        name = f"run-{self.number}"
        given = [f"--data_dir={self.texts}", *SETTINGS, *PROFILES[profile], *flags]
        return Run(output or self.root / name, self.root / f"{name}.log", given)

    def resume(self, profile: str, output: Path) -> str:
        """Resume a run; return `same`, or `refused` after a refusal in one line.

        Raises:
            Lost: If it fails or ends with another result.
        """
        training = self.start(profile, output, "--resume")
        code = training.end()
        lines = [line for line in training.stderr.splitlines() if line.startswith("hf-rnn train: error: ")]
        if code == 2 and len(lines) == 1 and "Traceback" not in training.stderr:
            return "refused"
        if code != 0:
            raise Lost(f"resuming ended with {code}:\n{training.stderr[-2000:]}")
        self.compare(profile, output)
        return "same"

    def compare(self, profile: str, output: Path) -> None:
        """Compare a run with the undisturbed one.

        Raises:
            Lost: If the results differ.
        """
        found = read_outcome(output)
        if differ := [name for name, value in self.expected[profile].items() if found[name] != value]:
            raise Lost(f"{output}: other {', '.join(differ)}")

    def count(self, fault: str, attempts: Iterator[str]) -> None:
        """Count the results of a fault's attempts, up to the first that is lost."""
        row: dict[str, Any] = {"fault": fault, "tried": 0, "survived": 0, "refused": 0, "lost": 0, "reasons": []}
        try:
            for result in attempts:
                row["tried"] += 1
                row["survived"] += 1
                row["refused"] += result == "refused"
        except Lost as lost:
            row["tried"] += 1
            row["lost"] += 1
            row["reasons"].append(str(lost))
        self.rows.append(row)

    def next_profile(self) -> str:
        """Return the ways of saving in turn."""
        return self.profiles[self.number % len(self.profiles)]
