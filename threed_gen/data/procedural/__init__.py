"""Shapes made from numbers: closed, licence-free (CC0) meshes of everyday things, without end."""
