"""Networks behind `init` and `apply`: the only place that knows Flax."""
