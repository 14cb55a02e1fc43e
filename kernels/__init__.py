"""Pure functions on tensors, each beside its plain reference. No model knowledge."""
