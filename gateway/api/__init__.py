"""The HTTP surface: the only room that knows OpenAI JSON."""
