"""Time two sides in turn: absolute times drift on a shared machine, ratios pair by pair hold."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

WARM_UP = 2  # passes that are not timed


def compare(
    name: str,
    ours: Callable[..., Any],
    peer: Callable[..., Any],
    repeats: int,
    inputs: Sequence[tuple[Any, ...]] = ((),),
    turn: int = 1,
) -> dict[str, Any]:
    """Return the medians of both sides and of their ratios, after passes to warm up.

    Args:
        name: Name of the result.
        ours: Our side, called with one of the inputs.
        peer: The other side.
        repeats: Passes over the inputs; the side that starts alternates.
        inputs: Arguments of a call.
        turn: Inputs that a side takes in a row. With 1, a side finds the caches filled by the other.
    """
    seconds: dict[Callable[..., Any], list[float]] = {}
    for number in range(-WARM_UP, repeats):
        for first in range(0, len(inputs), turn):
            for side in (ours, peer) if number % 2 else (peer, ours):
                for given in inputs[first : first + turn]:
                    start = time.perf_counter()
                    side(*given)
                    if number >= 0:
                        seconds.setdefault(side, []).append(time.perf_counter() - start)
    return summarize(name, seconds[ours], seconds[peer])


def summarize(name: str, ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    """Return the medians of both sides' seconds and of their ratios; above 1, ours is faster."""
    low, middle, high = statistics.quantiles((b / a for a, b in zip(ours, peer, strict=True)), n=4)
    milliseconds = {"ours_ms": 1000 * statistics.median(ours), "peer_ms": 1000 * statistics.median(peer)}
    return {"name": name, **milliseconds, "ratio": middle, "ratio_quartiles": [low, high], "repeats": len(ours)}
