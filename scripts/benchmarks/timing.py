"""Timing for benchmark.py: both sides in turn, and the median of the ratios pair by pair."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def summarize(name: str, ours: Sequence[float], peer: Sequence[float], **more: Any) -> dict[str, Any]:
    """Return the medians of both sides' seconds and of their ratios; above 1, ours is faster."""
    low, middle, high = statistics.quantiles((b / a for a, b in zip(ours, peer, strict=True)), n=4)
    return {
        "name": name,
        "ours_ms": 1000 * statistics.median(ours),
        "peer_ms": 1000 * statistics.median(peer),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "repeats": len(ours),
        **more,
    }


def interleave(name: str, ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Time two callables in turn."""
    for _ in range(3):
        ours(), peer()
    return summarize(name, *_time_in_turn(lambda _: ours(), lambda _: peer(), [None], repeats))


def interleave_inputs(
    name: str,
    ours: Callable[[Any], Any],
    peer: Callable[[Any], Any],
    inputs: Sequence[Any],
    repeats: int,
    turn: int = 1,
) -> dict[str, Any]:
    """Time two callables on single inputs; medians are over inputs and repeats.

    Args:
        name: Name of the result.
        ours: Callable of one input.
        peer: Callable of one input.
        inputs: Each is taken by both sides.
        repeats: Passes over the inputs.
        turn: Inputs that a side takes in a row. With 1, each side finds the caches filled by the other.
    """
    _time_in_turn(ours, peer, inputs, 1, turn)  # warm up
    return summarize(name, *_time_in_turn(ours, peer, inputs, repeats, turn))


def _time_in_turn(
    ours: Callable[[Any], Any], peer: Callable[[Any], Any], inputs: Sequence[Any], repeats: int, turn: int = 1
) -> tuple[list[float], list[float]]:
    """Return the seconds of each side; the side that starts alternates."""
    seconds: dict[Callable[[Any], Any], list[float]] = {ours: [], peer: []}
    for number in range(repeats):
        for first in range(0, len(inputs), turn):
            for side in (ours, peer) if number % 2 else (peer, ours):
                for given in inputs[first : first + turn]:
                    start = time.perf_counter()
                    side(given)
                    seconds[side].append(time.perf_counter() - start)
    return seconds[ours], seconds[peer]
