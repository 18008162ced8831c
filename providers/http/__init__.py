"""The HTTP/1.1 client towards providers: asyncio protocols, llhttp as the parser."""
