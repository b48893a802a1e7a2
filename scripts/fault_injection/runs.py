"""Training runs that can be broken at a moment of one's choice, and how they end: for fault_injection.py."""

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

os.environ["OMP_NUM_THREADS"] = "1"  # the children are forked: no threads before
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROFILES = {
    "epochs": [],
    "steps": ["--save_strategy=steps", "--save_steps=7", "--eval_strategy=steps", "--eval_steps=7"],
}
SIZES = ["--embedding_size=16", "--hidden_size=8", "--per_device_train_batch_size=16", "--num_train_epochs=6"]
SIZES += ["--learning_rate=0.02"]  # else nothing is learned in so few steps
NEUTRAL = ["the", "box", "of", "dry", "sand", "stood", "near", "a", "door", "and", "it", "was", "there", "for", "days"]


class Lost(Exception):
    """A fault did harm."""


def write_texts(folder: Path) -> None:
    """Texts with a rule to learn: one word tells the label."""
    folder.mkdir()
    for name, count, seed in (("train", 240, 1), ("dev", 60, 2), ("test", 60, 3)):
        chance, lines = random.Random(seed), []
        for number in range(count):
            label = ("bad", "good", "plain")[number % 3]
            words = chance.choices(NEUTRAL, k=chance.randrange(1, 12))
            if label != "plain":
                words.insert(chance.randrange(len(words) + 1), "miro" if label == "good" else "selk")
            lines.append(f"{' '.join(words)}\t{label}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8", newline="\n")


class Run:
    """One training process, watched through a pipe on which it tells when it begins and ends a write.

    Args:
        texts: Folder of the texts.
        output: Folder of the model.
        log: Takes what it prints.
        flags: Of `hf-rnn train`.
    """

    _running: ClassVar[set[int]] = set()

    def __init__(self, texts: Path, output: Path, log: Path, flags: list[str]) -> None:
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
            os.close(self._read)
            _train_and_leave(
                [f"--data_dir={texts}", f"--output_dir={output}", "--use_cpu", *SIZES, *flags], self.log, write
            )
        os.close(write)
        self._running.add(self.process)

    @classmethod
    @contextmanager
    def none_left(cls) -> Iterator[None]:
        """End the runs that go on when this one is stopped."""
        try:
            yield
        finally:
            for process in cls._running:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def watch(self, until: Callable[["Run"], bool] = lambda run: False, seconds: float = 300) -> bool:
        """Wait until something is so, for some seconds, or to the process's end; return whether it still runs."""
        end = time.monotonic() + seconds
        while not until(self) and (left := end - time.monotonic()) > 0:
            if not select.select([self._read], [], [], left)[0]:
                return True
            told = os.read(self._read, 1)
            if not told:
                status = os.waitpid(self.process, 0)[1]
                self._running.discard(self.process)
                os.close(self._read)
                self.code = os.waitstatus_to_exitcode(status)
                return False
            self.writing = told == b"w"
            self.writes += told == b"d"
            self.times.append(time.monotonic() - self.start)
        return True

    def end(self) -> int:
        """Wait for the end and return the exit code, the signal's number negative."""
        if self.code is None and self.watch():
            os.kill(self.process, signal.SIGKILL)
            raise Lost(f"it hangs, see {self.log}")
        return self.code or 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.process, number)

    @property
    def told(self) -> str:
        """What it wrote to stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _train_and_leave(flags: list[str], log: Path, pipe: int) -> None:
    """The child: train in it, as the command line does, and never return."""
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        from hf_rnn.cli.main import main
        from hf_rnn.training.trainer import RnnTrainer

        save = RnnTrainer._save_checkpoint

        def watched(self: RnnTrainer, *args: Any, **kwargs: Any) -> None:
            os.write(pipe, b"w")
            try:
                save(self, *args, **kwargs)
            finally:
                os.write(pipe, b"d")

        RnnTrainer._save_checkpoint = watched  # type: ignore[method-assign]
        os._exit(main(["train", *flags]))
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
        os._exit(70)


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on any fault: weights, scores, and the log, without times."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["training"].pop("seconds")
    states = sorted(folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    log = json.loads((states[-1] / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    times = ("runtime", "per_second")
    return {
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": metrics,
        "log": [{name: value for name, value in entry.items() if not name.endswith(times)} for entry in log],
        "states": {
            name: hashlib.sha256((states[-1] / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        },
    }


class Bench:
    """Runs faults and counts.

    Args:
        root: A folder for everything.
        seed: Of the moments.
        profiles: Ways of saving, taken in turn.
    """

    def __init__(self, root: Path, seed: int, profiles: list[str]) -> None:
        self.profiles = profiles
        self.root = root
        self.chance = random.Random(seed)
        self.texts = root / "texts"
        write_texts(self.texts)
        self.number = 0
        self.rows: list[dict[str, Any]] = []
        self.expected: dict[str, dict[str, Any]] = {}
        self.times: dict[str, list[float]] = {}
        for profile in profiles:
            for _ in range(2):  # else a difference would say nothing
                run = self.start(profile)
                if run.end() != 0:
                    raise SystemExit(f"the undisturbed run failed:\n{run.told}")
                found = outcome(run.output)
                if self.expected.setdefault(profile, found) != found:
                    raise SystemExit("two undisturbed runs differ: nothing can be compared here")
                self.times[profile] = [*run.times, time.monotonic() - run.start]
                self.finished = run.output

    def start(self, profile: str, output: Path | None = None, *flags: str) -> Run:
        """Start a run, in a fresh folder if none is given."""
        self.number += 1
        name = f"run-{self.number}"
        flags = (*PROFILES[profile], *flags)
        return Run(self.texts, output or self.root / name, self.root / f"{name}.log", list(flags))

    def go_on(self, profile: str, output: Path) -> str:
        """Resume; return `same`, or `refused` after a refusal in one line; raise for all else."""
        run = self.start(profile, output, "--resume")
        code = run.end()
        lines = [line for line in run.told.splitlines() if line.startswith("hf-rnn train: error: ")]
        if code == 2 and len(lines) == 1 and "Traceback" not in run.told:
            return "refused"
        if code != 0:
            raise Lost(f"resuming ended with {code}:\n{run.told[-2000:]}")
        self.compare(profile, output)
        return "same"

    def compare(self, profile: str, output: Path) -> None:
        """Make sure that a run came to the same end."""
        found = outcome(output)
        differ = [name for name, value in self.expected[profile].items() if found[name] != value]
        if differ:
            raise Lost(f"{output}: other {', '.join(differ)}")

    def count(self, fault: str, attempts: Iterator[str]) -> None:
        """Count what came of a fault's attempts."""
        row: dict[str, Any] = {"fault": fault, "tried": 0, "survived": 0, "refused": 0, "lost": 0, "why": []}
        while True:
            try:
                result = next(attempts)
            except StopIteration:
                break
            except Lost as lost:
                row["lost"] += 1
                row["why"].append(str(lost))
                row["tried"] += 1
                break
            row["tried"] += 1
            row["survived"] += 1
            row["refused"] += result == "refused"
        self.rows.append(row)

    def profile(self) -> str:
        """The next way of saving, in turn."""
        return self.profiles[self.number % len(self.profiles)]
