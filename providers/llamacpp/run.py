"""A call that the worker works on: what it has used until now."""

from tollway.providers.llamacpp.frames import Submit, Used
from tollway.providers.llamacpp.jobs import Read


class Run:
    """A call that is being worked on."""

    def __init__(self, job: Submit, read: Read, number: int) -> None:
        self.job = job
        self.read = read
        self.number = number  # calls are numbered as they come
        # No key has a NUL in its name: nobody else is called so.
        self.owner = f"\0{number}" if job.fresh else job.owner
        self.choices = len(read.prompts) * job.n
        self.at = 0  # choices, or texts to embed, that are done
        self.begun: set[int] = set()  # prompts
        self.cached = 0
        self.completion = 0
        self.thought = 0

    @property
    def used(self) -> Used:
        """The tokens of the prompts that were begun, and of what was made."""
        prompt = sum(len(self.read.prompts[at]) for at in self.begun)
        return Used(prompt, self.cached, self.completion, self.thought)
