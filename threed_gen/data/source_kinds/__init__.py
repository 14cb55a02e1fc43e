"""The kinds of sources that `prepare` reads: folder, procedural, manifest, objaverse."""
