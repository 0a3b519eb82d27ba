"""KVGate: an OpenAI-compatible gateway that admits requests by the KV-cache memory they are predicted to need."""

__version__ = "0.1.0"
