"""The person's side of Tollway: the `tollway` command."""
