"""Direct3D-S2's released weights: their folder, their config, their tensors, both ways."""
