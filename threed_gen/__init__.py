"""threed-gen: train high-resolution sparse 3D shape generators (SS-VAE, SS-DiT, SSA)."""

__version__ = "0.1.0"
