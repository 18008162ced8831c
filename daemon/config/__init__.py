"""gateway.toml: what may stand in it, how it is read, and how it is edited in place."""
