"""Training: data, networks, the probe that looks inside them, and the loop."""
