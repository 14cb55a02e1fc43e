"""Shards from anywhere: URLs, and copies on the node's own disk made ahead of use."""
