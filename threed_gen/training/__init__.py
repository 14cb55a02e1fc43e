"""The run: one step after another, checkpoints that survive anything, logs people can read."""
