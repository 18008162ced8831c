"""The gateway's process: configuration, the gate every call passes, and the ledger."""
