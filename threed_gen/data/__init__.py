"""Meshes become shards of sparse signed distance fields here, and shards become samples."""
