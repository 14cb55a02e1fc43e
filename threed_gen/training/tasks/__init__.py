"""One file for each model that can be trained."""
