"""What every dialect of embeddings holds an answer to."""

import pytest

from tollway.providers.dialects.table import EMBEDS
from tollway.providers.embedding import Embedding
from tollway.providers.errors import UpstreamBroke

BODIES = {
    "bedrock": b'{"embeddings":{"float":[[0.5]]}}',
    "cohere": b'{"embeddings":{"float":[[0.5]]}}',
    "openai_chat": b'{"data":[{"embedding":[0.5]}]}',
    "gemini": b'{"embeddings":[{"values":[0.5]}]}',
}


@pytest.mark.parametrize("name", EMBEDS)
def test_each_text_has_its_vector_or_the_answer_is_broken(name: str) -> None:
    """A vector too few would stand at another text."""
    read, body = EMBEDS[name].read, BODIES[name]
    assert len(read(Embedding("m", ("one",)), body).vectors) == 1
    with pytest.raises(UpstreamBroke, match="holds 1 vector for 2 texts"):
        read(Embedding("m", ("one", "two")), body)
