"""Break training runs, resume them, and compare the result with an undisturbed run.

    python scripts/fault_injection/inject_faults.py                     # all faults, about four minutes on one core
    python scripts/fault_injection/inject_faults.py kill write          # some faults
    python scripts/fault_injection/inject_faults.py --tries 3 --json out.json

Training is `hf-rnn train` with recipe `scratch` on invented texts, made small; every second run saves within epochs. A
fault is survived if the resumed run ends with the same weights, bit for bit, the same scores and the same log, or if
resuming is refused with one line before any checkpoint was complete. Exit code 1 if anything was lost.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run
from fault_injection.runs import PROFILES, Bench, Lost, Run


def resume_after_kill(bench: Bench, profile: str, killed: Run) -> str:
    """Resume; if nothing was saved yet, start again as the refusal says."""
    if bench.resume(profile, killed.output) == "same":
        return "same"
    if killed.writes:
        raise Lost(f"{killed.output} had {killed.writes} complete checkpoints, but resuming was refused")
    if bench.start(profile, killed.output, "--overwrite_output_dir").end() != 0:
        raise Lost(f"{killed.output} cannot be overwritten")
    bench.compare(profile, killed.output)
    return "refused"


def has_written(checkpoints: int) -> Callable[[Run], bool]:
    """Return a condition for `Run.watch`."""
    return lambda run: run.writes == checkpoints


def is_writing(after: int) -> Callable[[Run], bool]:
    """Return a condition for `Run.watch`."""
    return lambda run: run.writing and run.writes == after


def kill(bench: Bench, tries: int) -> None:
    """Send SIGKILL at a random moment after the start."""

    def attempts() -> Iterator[str]:
        for _ in range(tries):
            profile = bench.next_profile()
            first, last = bench.times[profile][0], bench.times[profile][-1]
            training = bench.start(profile)
            training.watch(seconds=bench.random.uniform(0.8 * first, last))
            training.stop()
            yield resume_after_kill(bench, profile, training)
            shutil.rmtree(training.output)

    bench.count("kill -9 at a random moment", attempts())


def write(bench: Bench, tries: int) -> None:
    """Send SIGKILL at a random moment while a checkpoint is written; other moments are not counted."""

    def attempts() -> Iterator[str]:
        hits = 0
        while hits < tries:
            profile = bench.next_profile()
            times = bench.times[profile]
            save = bench.random.randrange(len(times) // 2)
            seconds = times[2 * save + 1] - times[2 * save]
            training = bench.start(profile)
            training.watch(until=is_writing(save))
            training.watch(until=lambda one: not one.writing, seconds=bench.random.uniform(0, 0.8 * seconds))
            inside = training.writing
            training.stop()
            if inside:
                hits += 1
                yield resume_after_kill(bench, profile, training)
            shutil.rmtree(training.output, ignore_errors=True)

    bench.count("kill -9 inside a write", attempts())


def stop(bench: Bench, tries: int) -> None:
    """Send SIGTERM and Ctrl-C; the run must print one line with the command to resume."""

    def attempts(number: int) -> Iterator[str]:
        for _ in range(tries):
            profile = bench.next_profile()
            times = bench.times[profile]
            saved = bench.random.randrange(1, len(times) // 2 - 1)
            training = bench.start(profile)
            training.watch(until=has_written(saved))
            training.watch(seconds=bench.random.uniform(0, times[2 * saved] - times[2 * saved - 1]))
            os.kill(training.process, number)
            code = training.end()
            lines = [line for line in training.stderr.splitlines() if "--resume" in line]
            if code != 128 + number or len(lines) != 1:
                raise Lost(f"ended with {code}:\n{training.stderr[-2000:]}")
            if bench.resume(profile, training.output) != "same":
                raise Lost(f"{training.output} cannot be resumed")
            yield "same"
            shutil.rmtree(training.output)

    bench.count("SIGTERM", attempts(signal.SIGTERM))
    bench.count("Ctrl-C", attempts(signal.SIGINT))


def truncate(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit_of(path: Path) -> None:
    """Change one bit of the middle byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS: dict[str, Callable[[Path], None]] = {
    "truncate": truncate,
    "delete": lambda path: path.unlink(),
    "flip a bit of": flip_a_bit_of,
}


def damage(bench: Bench, tries: int) -> None:
    """Truncate, delete or change each file of the newest of three checkpoints."""
    profile = bench.profiles[0]
    training = bench.start(profile)
    training.watch(until=has_written(3))
    training.stop()
    newest = max(training.output.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    names = sorted(path.name for path in newest.iterdir())
    if tries < len(names):
        names = bench.random.sample(names, tries)

    def attempts(harm: Callable[[Path], None]) -> Iterator[str]:
        for name in names:
            copy = bench.root / "damaged"
            shutil.copytree(training.output, copy)
            harm(copy / "checkpoints" / newest.name / name)
            if bench.resume(profile, copy) != "same":
                raise Lost(f"{copy}: cannot be resumed without {name} of the newest checkpoint")
            yield "same"
            shutil.rmtree(copy)

    for verb, harm in HARMS.items():
        bench.count(f"{verb} each file of the newest checkpoint in turn", attempts(harm))


@contextmanager
def mount_small_disk(root: Path, size: int) -> Iterator[Path]:
    """Mount a file system of some bytes in memory.

    Raises:
        PermissionError: If this user or this system cannot mount one.
    """
    folder = root / "disk"
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True).returncode:
        raise PermissionError("cannot mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_refusal(bench: Bench, training: Run, profile: str) -> str:
    """Check a run that could not write: one line, intact earlier checkpoints, and a copy elsewhere resumes."""
    from hf_rnn.training.checkpointing.manifest import list_checkpoints, verify

    lines = [line for line in training.stderr.splitlines() if line.startswith("hf-rnn train: error: ")]
    if training.end() != 2 or len(lines) != 1 or "Traceback" in training.stderr:
        raise Lost(f"ended with {training.code}:\n{training.stderr[-2000:]}")
    checkpoints = list_checkpoints(training.output / "checkpoints")
    if not checkpoints:
        raise Lost("no checkpoint is left")
    verify(checkpoints[0])
    copy = bench.root / "whole"
    shutil.copytree(training.output, copy)
    if bench.resume(profile, copy) != "same":
        raise Lost("the copy cannot be resumed")
    shutil.rmtree(copy)
    return "same"


def disk(bench: Bench, tries: int) -> None:
    """Fill the disk while a checkpoint is written, at several sizes; and make it read-only."""
    profile = bench.profiles[0]
    newest = max(bench.finished.glob("checkpoints/checkpoint-*"))
    size = sum(path.stat().st_size for path in newest.iterdir())

    def fill() -> Iterator[str]:
        for number in range(tries):
            with mount_small_disk(bench.root, int(size * (2.15 + 0.75 * number / tries))) as folder:
                training = bench.start(profile, folder / "out")
                training.end()
                yield check_refusal(bench, training, profile)

    def make_read_only() -> Iterator[str]:
        for number in range(tries):
            with mount_small_disk(bench.root, 100 * size) as folder:
                training = bench.start(profile, folder / "out")
                training.watch(until=has_written(1 + number % 3))
                os.kill(training.process, signal.SIGSTOP)
                remount = ["mount", "-o", "remount,ro", str(folder)]
                done = subprocess.run(remount, capture_output=True).returncode == 0
                os.kill(training.process, signal.SIGCONT)
                training.end()
                if done:  # fails while a file is open
                    yield check_refusal(bench, training, profile)

    for name, attempts in (("disk full", fill), ("the folder becomes read-only", make_read_only)):
        try:
            bench.count(name, attempts())
        except PermissionError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)


FAULTS = {"kill": (kill, 15), "write": (write, 10), "stop": (stop, 6), "damage": (damage, 100), "disk": (disk, 4)}


def main() -> int:
    """Run the faults and print the table."""
    parser = Parser(__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)} (default: all)")
    parser.add_argument("--tries", type=positive, help="tries per fault (default: 4 to 15; damage: each file)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES), help="when to save")
    parser.add_argument("--json", metavar="FILE", help="also write the counts to this file; - prints them instead")
    flags = parser.parse_args()
    if unknown := set(flags.faults) - set(FAULTS):
        parser.error(f"unknown fault: found {', '.join(sorted(unknown))}; choose from {', '.join(FAULTS)}")
    if not hasattr(os, "fork"):
        parser.error("this script needs a system that forks")
    import hf_rnn.cli.train
    import hf_rnn.training.train  # noqa: F401 - import once, before the forks

    with suppress(ImportError):
        import matplotlib.pyplot  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="faults-") as root, Run.end_all():
        bench = Bench(Path(root), flags.seed, flags.profiles)
        for name in flags.faults or FAULTS:
            inject, tries = FAULTS[name]
            inject(bench, flags.tries or tries)
    if flags.json == "-":
        print(json.dumps(bench.rows))
    else:
        if flags.json:
            Path(flags.json).write_text(json.dumps(bench.rows, indent=1), encoding="utf-8")
        print("| fault | tried | survived | lost | of the survived: refused |\n|---|---|---|---|---|")
        for row in bench.rows:
            print("| {fault} | {tried} | {survived} | {lost} | {refused} |".format(**row))
    for row in bench.rows:
        for reason in row["reasons"]:
            print(f"{row['fault']}: {reason}", file=sys.stderr)
    return int(any(row["lost"] for row in bench.rows))


if __name__ == "__main__":
    run(main)
