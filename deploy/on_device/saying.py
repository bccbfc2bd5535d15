"""Says every few seconds that something is still being done. stdlib only."""

import contextlib
import sys
import threading
import time

OFTEN = 10  # seconds


@contextlib.contextmanager
def doing(what):
    """A line on standard error every `OFTEN` seconds until the block is left."""
    over, began = threading.Event(), time.time()

    def speak():
        while not over.wait(OFTEN):
            print("%s: %.0f s so far" % (what, time.time() - began), file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak)
    speaker.daemon = True
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()
