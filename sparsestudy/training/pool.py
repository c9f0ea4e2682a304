"""What every source of data returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """All examples of a data set, before splitting.

    Attributes:
        inputs: [examples, ...] as stored: uint8 images stay small until the splits have been drawn.
        labels: [examples], classes in int64 or numbers to predict in float64.
        test: The official test set in the same encoding, if there is one.
        white: Value of a white pixel, for images to be scaled to [0, 1] and standardised; 1 for columns of a table, to
            be standardised as they are; None: to be left alone.
        resize: Side in pixels of the square that images are resized to; None: as they are.
    """

    inputs: Tensor
    labels: Tensor
    test: Pool | None = None
    white: float | None = None
    resize: int | None = None
