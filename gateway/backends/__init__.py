"""One file per engine: how to send, how to read its metrics, how its errors look."""
