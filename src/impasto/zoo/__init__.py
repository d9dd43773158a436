"""Registry of names, model cards and shipped weights."""
