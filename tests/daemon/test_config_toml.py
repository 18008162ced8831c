"""What is no TOML says what was mostly meant: people come from YAML, or forget a quotation mark."""

from pathlib import Path

import pytest

from tollway.daemon.config.load import parse
from tollway.daemon.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[server]\nlisten = "127.0.0.1:4141\nwatch = true', 2, "quotation mark, on the same line"),
        ("[server]\nbudget = 5/day\nwatch = true", 2, 'text stands in quotation marks: "5/day"'),
        ("[server]\nwatch = True\n", 2, "yes is true, no is false"),
        ("[server]\ntimezone = “UTC”\n", 2, 'text stands in quotation marks: "5/day"'),
        ("[server]\nwatch: true\n", 2, 'write key = "value"'),
        ("[server]\nwatch = true\nwatch = true\n", 3, "the key stands twice"),
        ('[models.a]\ngguf = "C:\\dir"\n', 2, "write \\\\, or single quotation marks"),
        ("[server]\n[server]\n", 2, "not valid TOML: [server] stands twice"),
        ('[routes."a b"]\n[routes."a b"]\n', 2, "not valid TOML: [routes.a b] stands twice"),
    ],
)
def test_what_is_no_toml_says_what_was_meant(text: str, line: int, said: str) -> None:
    """Behind the reader's own words, which name what it met."""
    with pytest.raises(ConfigError) as fault:
        parse(text, path=Path("gateway.toml"))
    assert fault.value.message.startswith(f"gateway.toml:{line}: not valid TOML: ")
    assert fault.value.message.endswith(said) or said in fault.value.message
