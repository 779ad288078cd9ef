import os

# Before anything imports huggingface_hub: no test looks for anything on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
