"""The SQLite file that remembers every call and what it cost."""
