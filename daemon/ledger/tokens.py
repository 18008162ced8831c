"""The tokens of a row or a sum, by class."""

import msgspec


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a call, an attempt or a group of them used; the classes are disjoint.

    The names are those of `schema.TOKENS`, in its order.
    """

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    audio_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    searches: int

    @property
    def input_total(self) -> int:
        """All tokens that went in, of every class."""
        written = self.cache_write_tokens + self.cache_write_1h_tokens
        seen = self.audio_input_tokens + self.image_input_tokens
        return self.input_tokens + seen + self.cache_read_tokens + written

    @property
    def output_total(self) -> int:
        """All tokens that came out, of every class."""
        shown = self.audio_output_tokens + self.image_output_tokens
        return self.output_tokens + self.reasoning_tokens + shown
