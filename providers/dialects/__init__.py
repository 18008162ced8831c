"""How each wire format is read and written, one module a dialect."""
