"""Looks at engines and GPUs, and what is read from them."""
