"""The run directory: drawing, judging, provenance, resume, comparison."""
