"""All that is known about LLM APIs: no web server and no database here."""
