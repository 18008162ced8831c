"""Which model answers where names are the owner's own, as those of Azure's deployments.

A deployment keeps its name when another model is put behind it, by its owner or by Azure itself as
models retire (learn.microsoft.com, "Azure OpenAI model versions": "auto-update", "upgrade when
expired"). What is paid for is the model that the answer names; the next hold is at its price.
"""

from tollway.daemon.gate.route import Target

_MOST_KNOWN = 10_000  # names a stranger makes up must not fill the memory


class Deployed:
    """The models behind deployments, by target; it lives as long as the daemon."""

    def __init__(self) -> None:
        self._models: dict[str, str] = {}

    def model(self, target: Target) -> str:
        """Return the model that a target last answered with; until then its name is one."""
        return self._models.get(target.name, target.model)

    def heard(self, target: Target, model: str) -> None:
        """Take note of the model that a target's answer names."""
        if target.name in self._models or len(self._models) < _MOST_KNOWN:
            self._models[target.name] = model
