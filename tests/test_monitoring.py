"""docs/monitoring.md, the dashboard and the alert rules name the metrics that there are."""

import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from needed import needed

from tollway.daemon.metric_names import SPECS, samples

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "monitoring.md"
DASHBOARD = DOCS / "grafana-dashboard.json"
RULES = DOCS / "alert-rules.yaml"
LABELS = {name: spec.labels for spec in SPECS for name in samples(spec)}
_METRIC = re.compile(r"\b((?:tollway|process)_[a-z0-9_]+)\b")
_USE = re.compile(r"\b((?:tollway|process)_[a-z0-9_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\bby\s*\(([^)]*)\)")


def table() -> str:
    """Return the page's table of metrics as it should be."""
    lines = ["| Metric | Kind | Labels | What it says |", "|---|---|---|---|"]
    for spec in SPECS:
        name = samples(spec)[0] if spec.kind != "histogram" else spec.name
        labels = ", ".join(f"`{one}`" for one in spec.labels)
        lines.append(f"| `{name}` | {spec.kind} | {labels} | {spec.help} |")
    return "\n".join(lines)


def test_the_page_has_every_metric_with_its_labels_and_its_help() -> None:
    """`table()` is what to paste when it does not."""
    found = PAGE.read_text().partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    assert found.strip() == table()


def expressions(found: Any) -> list[str]:
    """Return every query of a dashboard, of whatever depth."""
    if isinstance(found, dict):
        own = [found[name] for name in ("expr", "definition") if isinstance(found.get(name), str)]
        return own + [one for value in found.values() for one in expressions(value)]
    if isinstance(found, list):
        return [one for value in found for one in expressions(value)]
    return []


QUERIES = {
    "dashboard": expressions(msgspec.json.decode(DASHBOARD.read_bytes())),
    "rules": re.findall(r"expr: (.+(?:\n {10,}.+)*)", RULES.read_text()),
}


@pytest.mark.parametrize("where", QUERIES)
def test_every_metric_and_label_of_a_query_is_one_that_is_exported(where: str) -> None:
    """A renamed metric leaves a panel empty and an alert silent; nobody would notice."""
    assert len(QUERIES[where]) > 8
    for query in QUERIES[where]:
        assert query.count("(") == query.count(")"), query
        used = _USE.findall(query)
        assert used, query
        for name, matchers in used:
            assert name in LABELS, f"{name} in {query}"
            labels = {*LABELS[name], "job", "instance"}
            labels |= {"le"} if name.endswith("_bucket") else set()
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels, query
        known = {label for name, _ in used for label in LABELS[name]} | {"le", "job", "instance"}
        for names in _BY.findall(query):
            assert {name.strip() for name in names.split(",")} <= known, query


def test_the_page_names_no_metric_that_there_is_not() -> None:
    """Prose ages faster than tables."""
    for name in _METRIC.findall(PAGE.read_text()):
        assert name in LABELS or any(name == spec.name for spec in SPECS), name


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """Whoever is woken by it reads nothing else first."""
    rules = RULES.read_text().split("- alert: ")[1:]
    assert len(rules) > 8
    for rule in rules:
        assert re.search(r"severity: (critical|warning)", rule), rule
        assert "summary: " in rule and "description: " in rule, rule


def promtool(*words: str) -> None:
    """Have Prometheus's own checker look at a file; it must find nothing at all."""
    program = needed("promtool", package="prometheus")
    seen = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert (seen.returncode, seen.stderr) == (0, ""), seen.stderr + seen.stdout


def test_prometheus_takes_the_rules() -> None:
    """A rule that it cannot read keeps it from starting with any."""
    promtool("check", "rules", str(RULES))


def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Each as a rule, with Grafana's own words in it as Grafana would fill them in."""
    rules = [
        {"record": f"panel:number_{number}", "expr": _filled(query)}
        for number, query in enumerate(QUERIES["dashboard"])
    ]
    path = tmp_path / "queries.yaml"  # JSON is YAML
    path.write_bytes(msgspec.json.encode({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--no-lint-fatal", str(path))


def _filled(query: str) -> str:
    inner = re.fullmatch(r"label_values\((.+), *\w+\)", query)
    return re.sub(r"\$\w+|\$\{\w+\}", "5m", inner[1] if inner else query)


def test_prometheus_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    """What people copy."""
    path = tmp_path / "prometheus.yml"
    path.write_text(PAGE.read_text().partition("```yaml\n")[2].partition("```")[0])
    promtool("check", "config", str(path))
