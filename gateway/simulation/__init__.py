"""An engine without a GPU: in virtual time for replays, behind vLLM's HTTP for demos and tests."""
