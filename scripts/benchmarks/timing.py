"""How the parts of benchmark.py take times: both sides in turn, and the median of the ratios pair by pair."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def summarize(what: str, ours: Sequence[float], peer: Sequence[float], **more: Any) -> dict[str, Any]:
    """Return a result: what took how many seconds on each side, pair by pair, and whatever else is to be told of it.

    A ratio above 1 means that ours is faster.
    """
    low, middle, high = statistics.quantiles((b / a for a, b in zip(ours, peer, strict=True)), n=4)
    return {
        "what": what,
        "ours_ms": 1000 * statistics.median(ours),
        "peer_ms": 1000 * statistics.median(peer),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "repeats": len(ours),
        **more,
    }


def interleave(what: str, ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Time two callables in turn."""
    for _ in range(3):
        ours(), peer()
    return summarize(what, *_take_turns(lambda _: ours(), lambda _: peer(), [None], repeats))


def one_by_one(
    what: str, ours: Callable[[Any], Any], peer: Callable[[Any], Any], texts: Sequence[Any], repeats: int, run: int = 1
) -> dict[str, Any]:
    """Time two callables on texts one at a time; medians are over texts and repeats.

    Args:
        what: Is measured.
        ours: Takes a text.
        peer: Takes a text.
        texts: To be taken.
        repeats: Times that each text is taken by each side.
        run: Texts that a side takes in a row. With 1 each text meets caches that the other side has just filled; with
            more, most meet what a program that does nothing else would.
    """
    _take_turns(ours, peer, texts, 1, run)  # warms up
    return summarize(what, *_take_turns(ours, peer, texts, repeats, run))


def _take_turns(
    ours: Callable[[Any], Any], peer: Callable[[Any], Any], inputs: Sequence[Any], repeats: int, run: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of each side, `run` inputs at a turn; which one goes first changes with each repeat."""
    seconds: dict[Callable[[Any], Any], list[float]] = {ours: [], peer: []}
    for number in range(repeats):
        for first in range(0, len(inputs), run):
            for side in (ours, peer) if number % 2 else (peer, ours):
                for given in inputs[first : first + run]:
                    start = time.perf_counter()
                    side(given)
                    seconds[side].append(time.perf_counter() - start)
    return seconds[ours], seconds[peer]
