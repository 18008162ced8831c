"""Which models answer where names are the owner's own, as those of Azure's deployments.

A deployment keeps its name when another model is put behind it, by its owner or by Azure itself as
models retire (learn.microsoft.com, "Azure OpenAI model versions": "auto-update", "upgrade when
expired"); a model router's answers are of another one each time. What is paid for is the model
that the answer names; the next hold is at the price of the dearest that has answered of late.
"""

from collections.abc import Sequence

from tollway.daemon.gate.route import Target

_MOST_KNOWN = 10_000  # names a stranger makes up must not fill the memory
_LATE = 100  # answers, after which a model that made none of them is gone


class Deployed:
    """The models behind deployments, by target; it lives as long as the daemon."""

    def __init__(self) -> None:
        # Of each model the number of its last answer, the latest last.
        self._answers: dict[str, dict[str, int]] = {}

    def models(self, target: Target) -> Sequence[str]:
        """Return the models that a target has answered with of late; its name until it has."""
        return tuple(self._answers.get(target.name, ())) or (target.model,)

    def heard(self, target: Target, model: str) -> bool:
        """Take note of the model that a target's answer names; return whether it is a new one."""
        if target.name not in self._answers and len(self._answers) >= _MOST_KNOWN:
            return False
        answers = self._answers.setdefault(target.name, {})
        number = max(answers.values(), default=0) + 1
        known = answers.pop(model, None) is not None
        answers[model] = number
        while next(iter(answers.values())) <= number - _LATE:
            del answers[next(iter(answers))]
        return not known
