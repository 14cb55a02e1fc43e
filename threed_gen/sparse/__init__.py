"""Sparse voxel grids and the layers that run on them."""
