"""What the request said beside its body, as far as the call's path needs it."""

from tollway.daemon.gate.affinity import conversation_in
from tollway.daemon.gate.tags import NO_TAGS, Tags
from tollway.providers.headers import Headers


class Origin:
    """What the request said beside its body, as far as the call's path needs it."""

    __slots__ = (
        "batch",
        "call_id",
        "client",
        "headers",
        "looked_at",
        "own",
        "report_cost",
        "session",
        "tags",
    )

    def __init__(
        self,
        call_id: str,
        client: str,
        headers: tuple[tuple[str, str], ...],
        *,
        report_cost: bool,
        batch: bool = False,
        tags: Tags = NO_TAGS,
    ) -> None:
        self.tags = tags
        self.session = ""  # what `session_of` says
        self.own: Headers = ()  # the caller's credential, for a provider that its callers pay
        self.looked_at: Headers = ()  # headers that routes have conditions on
        self.batch = batch  # it lets interactive calls go first
        self.call_id = call_id
        self.client = client
        self.headers = headers  # those that go on to the provider
        self.report_cost = report_cost

    def conversation(self, run: str) -> str:
        """Return what the client calls its conversation, "" for nothing; a `run` is none."""
        named = "" if self.session == run else self.session
        return conversation_in(self.headers) or named
