"""Every metric of `/metrics`: name, kind, labels and help. docs/monitoring.md lists the same."""

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "info"]


class Spec(NamedTuple):
    """One metric. A counter's samples are called NAME_total, an info's NAME_info."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


SPECS: tuple[Spec, ...] = (
    # The process.
    Spec("tollway_build", "info", "Version of Tollway and of Python", ("version", "python")),
    Spec("tollway_start_time_seconds", "gauge", "When the daemon started, unix seconds"),
    Spec("tollway_draining", "gauge", "1 while the daemon stops and takes no new call"),
    Spec("tollway_config_ok", "gauge", "1 where gateway.toml as it stands is the one in force"),
    Spec("tollway_config_loaded_time_seconds", "gauge", "When it came into force, unix seconds"),
    Spec("tollway_certificate_end_time_seconds", "gauge", "When server.tls's ends, unix seconds"),
    Spec("tollway_event_loop_stalls", "counter", "Times that the event loop stood still"),
    Spec("tollway_event_loop_stalled_seconds", "counter", "How long it stood still, together"),
    Spec("tollway_client_connections", "gauge", "Connections of clients"),
    Spec("tollway_connections_refused", "counter", "Connections that were over a limit"),
    # Calls.
    Spec(
        "tollway_calls",
        "counter",
        "Calls that have ended; the route is empty where a model was called by its own name",
        ("route", "endpoint", "outcome"),
    ),
    Spec("tollway_call_duration_seconds", "histogram", "From a call's body to its end", ("route",)),
    Spec("tollway_calls_active", "gauge", "Calls under way, those that wait included"),
    Spec("tollway_streams_active", "gauge", "Calls under way whose client gets a stream"),
    Spec("tollway_errors", "counter", "Answers that were errors, by their code", ("code",)),
    # Targets.
    Spec("tollway_attempts", "counter", "Attempts that have ended", ("target", "outcome")),
    Spec(
        "tollway_attempt_duration_seconds",
        "histogram",
        "From an attempt's start to its end",
        ("target",),
    ),
    Spec(
        "tollway_first_token_seconds",
        "histogram",
        "From an attempt's start to its first event, or its whole answer",
        ("target",),
    ),
    Spec(
        "tollway_tokens",
        "counter",
        "Tokens by class; the classes do not overlap",
        ("target", "class"),
    ),
    Spec("tollway_cost_usd", "counter", "What attempts cost, US dollars", ("target",)),
    Spec(
        "tollway_overrun_usd",
        "counter",
        "What attempts cost beyond their hold, US dollars",
        ("target",),
    ),
    Spec(
        "tollway_target_breaker_state",
        "gauge",
        "0 closed: it is called; 1 half-open: it is tried; 2 open: it rests",
        ("target",),
    ),
    Spec("tollway_provider_up", "gauge", "0 where its probes fail", ("provider",)),
    Spec(
        "tollway_provider_keys",
        "gauge",
        "Keys of a provider by state: closed ones are used, the others rest",
        ("provider", "state"),
    ),
    Spec("tollway_provider_retries_left", "gauge", "Retries that its budget has", ("provider",)),
    # Who.
    Spec("tollway_team_calls", "counter", "Calls that were sent, by team", ("team",)),
    Spec("tollway_team_tokens", "counter", "Tokens by team", ("team", "direction")),
    Spec("tollway_team_cost_usd", "counter", "Cost by team, US dollars", ("team",)),
    Spec("tollway_key_calls", "counter", "Calls that were sent, by key", ("key",)),
    Spec("tollway_key_tokens", "counter", "Tokens by key", ("key", "direction")),
    Spec("tollway_key_cost_usd", "counter", "Cost by key, US dollars", ("key",)),
    # Budgets.
    Spec("tollway_holds", "gauge", "Attempts whose worst case is held now"),
    Spec("tollway_held_usd", "gauge", "What is held for them, US dollars"),
    Spec(
        "tollway_budget_used_ratio",
        "gauge",
        "Spent and held, as a part of the limit",
        ("scope", "name", "budget"),
    ),
    Spec(
        "tollway_budget_spent_usd",
        "gauge",
        "Spent in this period, US dollars",
        ("scope", "name", "budget"),
    ),
    Spec(
        "tollway_budget_limit_usd",
        "gauge",
        "The limit, raises included, US dollars",
        ("scope", "name", "budget"),
    ),
    # Lines.
    Spec("tollway_queue_length", "gauge", "Calls that wait for a slot", ("target",)),
    Spec("tollway_queue_running", "gauge", "Calls that have a slot", ("target",)),
    Spec("tollway_queue_slots", "gauge", "Slots of a target that has some", ("target",)),
    Spec("tollway_queue_oldest_seconds", "gauge", "The longest wait now", ("target",)),
    Spec(
        "tollway_queue_wait_seconds",
        "histogram",
        "How long attempts waited that got a slot",
        ("target",),
    ),
    # Models of this box.
    Spec("tollway_local_model_up", "gauge", "1 where the model is in memory", ("model",)),
    Spec("tollway_local_model_failed", "gauge", "1 where it cannot be used", ("model",)),
    Spec("tollway_local_model_memory_bytes", "gauge", "Memory of its process", ("model",)),
    Spec("tollway_local_model_slots", "gauge", "Calls that it can answer at once", ("model",)),
    Spec("tollway_local_model_running", "gauge", "Calls that it is answering", ("model",)),
    Spec("tollway_local_model_waiting", "gauge", "Calls that wait for it", ("model",)),
    Spec(
        "tollway_local_model_tokens_per_second",
        "gauge",
        "Speed of its last call, the first token not counted",
        ("model",),
    ),
    Spec("tollway_gpu_memory_used_bytes", "gauge", "Memory in use on a GPU", ("gpu", "name")),
    Spec("tollway_gpu_memory_bytes", "gauge", "Memory of a GPU", ("gpu", "name")),
    Spec("tollway_gpu_busy_ratio", "gauge", "How busy a GPU is", ("gpu", "name")),
    Spec("tollway_gpu_power_watts", "gauge", "Power that a GPU draws", ("gpu", "name")),
    # The ledger.
    Spec("tollway_ledger_ok", "gauge", "1 where the ledger can be written"),
    Spec("tollway_ledger_backlog", "gauge", "Operations that wait to be written"),
    Spec("tollway_ledger_lag_seconds", "gauge", "How long the oldest admission waits so far"),
    Spec("tollway_ledger_commits", "counter", "Transactions written; load groups operations"),
    Spec("tollway_ledger_size_bytes", "gauge", "Size of the ledger's file"),
    Spec("tollway_ledger_wal_bytes", "gauge", "Size of its write-ahead log"),
    Spec("tollway_ledger_recovered_calls", "gauge", "Calls cut short by a kill, settled at start"),
    Spec("tollway_disk_free_bytes", "gauge", "Room on the ledger's disk"),
    Spec("tollway_disk_size_bytes", "gauge", "Size of the ledger's disk"),
    Spec("tollway_alerts_untold", "gauge", "Alert channels that failed when last used"),
    # The operating system's view; names as Prometheus clients have them everywhere.
    Spec("process_cpu_seconds", "counter", "Total user and system CPU time spent in seconds."),
    Spec("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    Spec("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    Spec("process_start_time_seconds", "gauge", "Start time of the process since unix epoch."),
    Spec("process_open_fds", "gauge", "Number of open file descriptors."),
    Spec("process_max_fds", "gauge", "Maximum number of open file descriptors."),
)


def samples(spec: Spec) -> tuple[str, ...]:
    """Return the names of a metric's samples, as queries use them."""
    match spec.kind:
        case "counter":
            return (f"{spec.name}_total",)
        case "info":
            return (f"{spec.name}_info",)
        case "histogram":
            return tuple(f"{spec.name}_{part}" for part in ("bucket", "sum", "count"))
        case "gauge":
            return (spec.name,)
