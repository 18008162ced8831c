"""What holds for every test."""

from hypothesis import settings

# No test may depend on how fast the machine is, and Hypothesis by itself fails a slow example.
# `--hypothesis-profile=thorough` looks longer, where something is suspected.
settings.register_profile("tollway", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("tollway")
