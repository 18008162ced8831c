"""Warnings that callers can cause without end, as with models whose names they make up."""

import logging

_MOST = 10
_WITHIN_S = 60.0


class Few:
    """Logs a few warnings a minute about each provider, and says when it leaves others out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: dict[str, tuple[float, int]] = {}  # since when, how many

    def warn(self, provider: str, now: float, text: str) -> None:
        """Log a warning about a provider, or that there are more of them."""
        since_s, told = self._told.get(provider, (now, 0))
        if now - since_s >= _WITHIN_S:
            since_s, told = now, 0
        self._told[provider] = since_s, told + 1
        if told < _MOST:
            self._log.warning("%s", text)
        elif told == _MOST:
            self._log.warning(
                "%s: more of its models or keys fail; `tollway status` has them, the log no more"
                " of them for a minute",
                provider,
            )
