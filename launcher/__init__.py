"""Processes onto machines: who runs where, and what each of them reads. Needs no torch."""
