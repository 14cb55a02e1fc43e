"""The whole corridor once, unattended: from meshes to a mesh made from a picture."""
