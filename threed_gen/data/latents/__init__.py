"""Latents on disk: what a trained SS-VAE says of each shape, as the SS-DiT reads it."""
