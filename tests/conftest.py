import os
import signal

# Before anything imports huggingface_hub: no test looks for anything on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell lets what it runs in the background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
