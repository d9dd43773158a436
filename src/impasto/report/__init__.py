"""What a run shows: one HTML page to look at, and a table for the terminal."""

from impasto.report.page import write_report

__all__ = ["write_report"]
