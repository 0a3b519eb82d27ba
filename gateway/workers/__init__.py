"""Several processes for one gateway: workers carry requests, and their owner decides for all of them."""
