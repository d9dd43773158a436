"""GenEval's reward over HTTP: `impasto serve --rewards`. Needs `pip install 'impasto[serve]'`."""
