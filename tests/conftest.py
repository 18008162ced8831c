"""What holds for every test."""

from hypothesis import settings

# No test may depend on how fast the machine is, and Hypothesis by itself fails a slow example.
settings.register_profile("tollway", deadline=None)
settings.load_profile("tollway")
