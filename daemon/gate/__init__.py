"""What every call passes: who asks, may they, what is held, where it goes, what it cost."""
