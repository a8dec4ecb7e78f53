"""Even samples of long sequences."""

import math
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def thinned(items: Sequence[Item], at_most: int) -> list[Item]:
    """Return every k-th item, from the first on, with the smallest k that keeps at most so many.

    Args:
        items: In an order over which the result is spread evenly.
        at_most: The largest length of the result, 1 or more.
    """
    return list(items[:: max(1, math.ceil(len(items) / at_most))])
