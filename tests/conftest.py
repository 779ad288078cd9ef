import os
import signal

# Before anything imports huggingface_hub: no test looks for anything on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything imports torch, here or in a program that a test starts: several tests, each with a thread for every
# processor, would wait for each other. Whoever sets another number gets it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it runs in the background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
