"""Inside one trained network: three views of its snapshot, as figures for the page and as PNGs."""
