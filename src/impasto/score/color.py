"""GenEval's colour classifier: which of ten colours has this object?"""

TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}",
             "a photo of a {color} object")  # fmt: skip
