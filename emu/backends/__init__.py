"""Backends execute host bytes: translated code and nothing else."""
