"""Gates: what a candidate must keep to before it is published. Pure functions from measurements to `GateResult`."""
