"""How numbers are written, in both reports alike."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.compare.run import Ratio
from taskcore.bench import Figure

__all__ = ["factor", "percents", "range_of", "spread", "times", "took"]


def times(ratio: float) -> str:
    """Write a ratio with as many digits as mean something: 0.853, 1.13, 4.9, 170."""
    return (
        f"{ratio:.3f}"
        if ratio < 0.1
        else f"{ratio:.2f}"
        if ratio < 2
        else f"{ratio:.1f}"
        if ratio < 10
        else f"{ratio:,.0f}"
    )


def factor(ratio: Ratio) -> str:
    """Write how many times, and between which values in the rounds."""
    return range_of(ratio, times, " ×")


def percents(ratio: Ratio) -> str:
    """Write a share, and between which values in the rounds."""
    return range_of(ratio, lambda value: f"{value * 100:.0f}", "%")


def range_of(ratio: Ratio, write: Callable[[float], str], unit: str = "") -> str:
    """Write the median, and the least and the greatest if they are others."""
    low, middle, high = write(ratio.low), write(ratio.middle), write(ratio.high)
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} … {high})"


def spread(figure: Figure) -> str:
    """Write half of the spread between rounds, in percent of the median; nothing if there was one round."""
    if len(figure.values) < 2 or not figure.median:
        return ""
    return f"±{(max(figure.values) - min(figure.values)) / figure.median * 50:.0f}%"


def took(figure: Figure) -> str:
    """Write the seconds until all was well after a kill: median, and the longest if a round took longer."""
    if figure.lost and "waited" in figure.facts:
        return f"not all: none for {figure.facts['waited']:g} s"
    longest = max(figure.values)
    return (
        f"{figure.median:.2f} s"
        if longest < figure.median + 0.01
        else f"{figure.median:.2f} s (at most {longest:.2f} s)"
    )
