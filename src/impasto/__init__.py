"""Make text-to-image models draw what the prompt says: measure, search, train."""
