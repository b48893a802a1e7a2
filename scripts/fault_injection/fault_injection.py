"""Break training runs in every way that we can think of, go on, and compare with the run that nothing happened to.

    python scripts/fault_injection.py                     # everything, about four minutes on one core
    python scripts/fault_injection.py kill write          # some faults
    python scripts/fault_injection.py --tries 3 --json -  # few of each, for machines to read

Training is `hf-rnn train` with recipe `default` on invented texts, made small; every second run saves within epochs.
A fault is survived when the run goes on to the same weights, bit for bit, the same scores and the same log, or when it
is refused with one line and nothing is lost. Exit code 1 when anything was lost.
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

import command_line
from fault_injection_bench import PROFILES, Bench, Lost, Run


def after_kill(bench: Bench, profile: str, killed: Run) -> str:
    """Go on; where nothing was saved yet, start anew as the refusal says."""
    if bench.go_on(profile, killed.output) == "same":
        return "same"
    if killed.writes:
        raise Lost(f"{killed.output} had {killed.writes} whole checkpoints written, and was refused")
    if bench.start(profile, killed.output, "--overwrite_output_dir").end() != 0:
        raise Lost(f"{killed.output} cannot be started anew")
    bench.compare(profile, killed.output)
    return "refused"


def _has_saved(checkpoints: int) -> Callable[[Run], bool]:
    return lambda run: run.writes == checkpoints


def _saves(after: int) -> Callable[[Run], bool]:
    return lambda run: run.writing and run.writes == after


def kill(bench: Bench, tries: int) -> None:
    """SIGKILL at a moment drawn from the whole run, but for its start, when there is nothing to lose."""

    def attempts() -> Iterator[str]:
        for _ in range(tries):
            profile = bench.profile()
            first, last = bench.times[profile][0], bench.times[profile][-1]
            run = bench.start(profile)
            run.watch(seconds=bench.chance.uniform(0.8 * first, last))
            if run.code is None:
                run.kill()
                run.end()
            yield after_kill(bench, profile, run)
            shutil.rmtree(run.output)

    bench.count("kill -9 at a random moment", attempts())


def write(bench: Bench, tries: int) -> None:
    """SIGKILL at a random moment inside the writing of a checkpoint; other moments are not counted."""

    def attempts() -> Iterator[str]:
        hits = 0
        while hits < tries:
            profile = bench.profile()
            times = bench.times[profile]
            saves = len(times) // 2
            wanted = bench.chance.randrange(saves)
            took = times[2 * wanted + 1] - times[2 * wanted]
            run = bench.start(profile)
            run.watch(until=_saves(wanted))
            run.watch(until=lambda run: not run.writing, seconds=bench.chance.uniform(0, 0.8 * took))
            inside = run.writing
            if run.code is None:
                run.kill()
                run.end()
            if inside:
                hits += 1
                yield after_kill(bench, profile, run)
            shutil.rmtree(run.output, ignore_errors=True)

    bench.count("kill -9 inside a write", attempts())


def stop(bench: Bench, tries: int) -> None:
    """SIGTERM and Ctrl-C: the exit code and the command that goes on are told."""

    def attempts(number: int) -> Iterator[str]:
        for _ in range(tries):
            profile = bench.profile()
            times = bench.times[profile]
            saved = bench.chance.randrange(1, len(times) // 2 - 1)
            run = bench.start(profile)
            run.watch(until=_has_saved(saved))
            run.watch(seconds=bench.chance.uniform(0, times[2 * saved] - times[2 * saved - 1]))
            run.kill(number)
            code = run.end()
            lines = [line for line in run.told.splitlines() if "--resume" in line]
            if code != 128 + number or len(lines) != 1:
                raise Lost(f"ended with {code}:\n{run.told[-2000:]}")
            if bench.go_on(profile, run.output) != "same":
                raise Lost(f"{run.output} does not go on")
            yield "same"
            shutil.rmtree(run.output)

    bench.count("SIGTERM", attempts(signal.SIGTERM))
    bench.count("Ctrl-C", attempts(signal.SIGINT))


def truncate(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def delete(path: Path) -> None:
    """Remove it."""
    path.unlink()


def flip_a_bit_of(path: Path) -> None:
    """Change one bit of the middle byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage(bench: Bench, tries: int) -> None:
    """Each file of the newest checkpoint of a run that was killed after its third: truncated, deleted, one bit off."""
    profile = bench.profiles[0]
    run = bench.start(profile)
    run.watch(until=lambda run: run.writes == 3)
    run.kill()
    run.end()
    newest = max(run.output.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    names = sorted(path.name for path in newest.iterdir())
    if tries < len(names):
        names = bench.chance.sample(names, tries)

    def attempts(harm: Callable[[Path], None]) -> Iterator[str]:
        for name in names:
            copy = bench.root / f"damaged-{harm.__name__}"
            shutil.copytree(run.output, copy)
            harm(copy / "checkpoints" / newest.name / name)
            if bench.go_on(profile, copy) != "same":  # two whole ones lie beside it
                raise Lost(f"{copy}: without {name} of the newest checkpoint it does not go on")
            yield "same"
            shutil.rmtree(copy)

    for harm in (truncate, delete, flip_a_bit_of):
        bench.count(f"{harm.__name__.replace('_', ' ')} each file of the newest checkpoint in turn", attempts(harm))


@contextmanager
def small_disk(root: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory.

    Raises:
        PermissionError: When this user or this system cannot mount one.
    """
    folder = root / "disk"
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True).returncode:
        raise PermissionError("no small file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _expect_clear_refusal(bench: Bench, run: Run, profile: str, whole: Path) -> str:
    """A run that could not write: one line, the checkpoints from before intact, and elsewhere it goes on."""
    from hf_rnn.training.checkpointing.manifest import list_checkpoints, verify

    lines = [line for line in run.told.splitlines() if line.startswith("hf-rnn train: error: ")]
    if run.end() != 2 or len(lines) != 1 or "Traceback" in run.told:
        raise Lost(f"ended with {run.code}:\n{run.told[-2000:]}")
    checkpoints = list_checkpoints(run.output / "checkpoints")
    if not checkpoints:
        raise Lost("no checkpoint is left")
    verify(checkpoints[0])
    shutil.copytree(run.output, whole)
    result = bench.go_on(profile, whole)
    shutil.rmtree(whole)
    if result != "same":
        raise Lost("it does not go on elsewhere")
    return result


def disk(bench: Bench, tries: int) -> None:
    """A disk that fills up while a checkpoint is written, at several sizes; and one that becomes read-only."""
    profile = bench.profiles[0]
    newest = max(bench.finished.glob("checkpoints/checkpoint-*"))
    size = sum(path.stat().st_size for path in newest.iterdir())

    def full() -> Iterator[str]:
        for number in range(tries):
            with small_disk(bench.root, int(size * (2.15 + 0.75 * number / tries))) as folder:
                run = bench.start(profile, folder / "out")
                run.end()
                yield _expect_clear_refusal(bench, run, profile, bench.root / "whole")

    def read_only() -> Iterator[str]:
        for number in range(tries):
            with small_disk(bench.root, 100 * size) as folder:
                run = bench.start(profile, folder / "out")
                run.watch(until=_has_saved(1 + number % 3))
                os.kill(run.process, signal.SIGSTOP)
                remount = ["mount", "-o", "remount,ro", str(folder)]
                done = subprocess.run(remount, capture_output=True).returncode == 0
                os.kill(run.process, signal.SIGCONT)
                run.end()
                if done:  # else it had a file open
                    yield _expect_clear_refusal(bench, run, profile, bench.root / "whole")

    for name, attempts in (("disk full", full), ("the folder becomes read-only", read_only)):
        try:
            bench.count(name, attempts())
        except PermissionError as error:
            print(f"{name}: not tried, {error}", file=sys.stderr)


FAULTS = {fault.__name__: fault for fault in (kill, write, stop, damage, disk)}
TRIES = {"kill": 15, "write": 10, "stop": 6, "damage": 100, "disk": 4}


def main() -> int:
    """Run the faults that were asked for and print the table."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)} (default: all)")
    parser.add_argument("--tries", type=int, help="of each fault (default: many; damage: each file)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES), help="when to save")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the counts there, - for stdout instead of the table"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"unknown fault {', '.join(sorted(unknown))}: there are {', '.join(FAULTS)}")
    if arguments.tries is not None and arguments.tries < 1:
        parser.error(f"--tries must be at least 1, found {arguments.tries}")
    if arguments.json not in (None, "-"):
        parser.check_writable(Path(arguments.json))
    if not hasattr(os, "fork"):
        parser.error("this needs a system that forks")
    import hf_rnn.cli.train  # noqa: F401 - once, before the forks, as what follows

    with suppress(ImportError):  # without it there are no figures
        import matplotlib.pyplot  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="faults-") as root, Run.none_left():
        bench = Bench(Path(root), arguments.seed, arguments.profiles)
        for name in arguments.faults or FAULTS:
            FAULTS[name](bench, arguments.tries or TRIES[name])
    if arguments.json == "-":
        print(json.dumps(bench.rows))
    else:
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(bench.rows, indent=1), encoding="utf-8")
        print("| fault | tried | survived | lost | of the survived: refused |\n|---|---|---|---|---|")
        for row in bench.rows:
            print("| {fault} | {tried} | {survived} | {lost} | {refused} |".format(**row))
    for row in bench.rows:
        for why in row["why"]:
            print(f"{row['fault']}: {why}", file=sys.stderr)
    return int(any(row["lost"] for row in bench.rows))


if __name__ == "__main__":
    command_line.run(main)
