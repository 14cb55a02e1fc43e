"""Meshes become sparse signed distance fields here, and sparse fields become meshes again."""
