"""Imported once by the fork server, so that a fresh worker process starts in milliseconds instead of ten seconds.

Nothing here may start a thread or touch a GPU: the server forks.
"""

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM
from trl import DPOTrainer, SFTTrainer

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "DPOTrainer", "Qwen3ForCausalLM", "SFTTrainer"]
__all__ += ["peft", "torch", "transformers"]
