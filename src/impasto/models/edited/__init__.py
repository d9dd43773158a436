"""Structures of edited models: what a saved one needs to load again."""
