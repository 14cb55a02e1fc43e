"""The tests mirror the tree: tests/geometry/ tests threed_gen/geometry/, and so on."""
