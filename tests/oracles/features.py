"""Methods that perturb the layer's features, loop by loop from their papers."""

ORACLES = {}
