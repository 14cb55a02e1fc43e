"""Rectified flow: from noise to latents along straight paths, in training and in generation."""
