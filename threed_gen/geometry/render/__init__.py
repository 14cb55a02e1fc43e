"""Pictures of meshes without a display: clay.py for people, photo.py for models."""
