"""GGUF models on this box, each in a worker process of its own."""
