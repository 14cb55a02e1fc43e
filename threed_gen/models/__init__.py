"""The trainable models and their weights on disk."""
