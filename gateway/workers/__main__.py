"""Starts a worker: `python -m gateway.workers CHANNEL LISTENING`, both numbers of file descriptors it was given."""

import sys

from gateway.workers.worker import main

if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
