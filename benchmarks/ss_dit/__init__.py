"""A training step of the SS-DiT on real coordinates, against full attention: run it on a GPU."""
