"""Which names below [prices] price nothing."""

from tollway.daemon.config import shown
from tollway.daemon.config.check_routes import LOCAL
from tollway.daemon.config.schema import Config
from tollway.providers.prices import Overrides, is_match


def idle(name: str, config: Config) -> str:
    """Return why what stands under a name of [prices] does nothing; "" where it may."""
    provider = name.partition("/")[0].lower()
    if any(is_match(one.lower(), provider) for one in config.providers):
        return ""
    only = Overrides([name])
    meant = [one for one in config.models if only.of(f"{LOCAL}/{one}")]
    if not meant:
        return "prices a target that there is not"
    if any(config.models[one].price is None for one in meant):
        return ""
    which = ", ".join(f"[{shown.key(('models', one))}]" for one in meant[:3])
    more = f" and {len(meant) - 3} more" if len(meant) > 3 else ""
    return f"does nothing: {which}{more} {'says' if len(meant) == 1 else 'say'} the price already"
