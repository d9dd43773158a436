"""A judge that answers by a function, and tells red from blue, as every judge must."""

from impasto.score.judges import Judge, Unanswered


class Scripted(Judge):
    """`answer` of a question, None for no answer at all; questions: all that were asked."""

    def __init__(self, answer):
        self.answer, self.questions = answer, []

    def ask(self, question, max_tokens=512, attempt=0):
        if question.text.startswith("Is the picture "):
            red = float(question.images[0][0].mean()) > 0.5
            return "yes" if red == ("red" in question.text) else "no"
        self.questions.append(question)
        if (said := self.answer(question)) is None:
            raise Unanswered("silent")
        return said

    def probability(self, question, variants, deduplicate=True):
        raise NotImplementedError

    def provenance(self):
        return {"id": "scripted", "sha256": "3" * 64}


def installed(monkeypatch, judge):
    """`judge`, which every scorer asked for by name now gets."""
    from impasto.score.judges import make

    monkeypatch.setattr(make, "make_judge", lambda **_: judge)
    return judge
