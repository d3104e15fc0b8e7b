"""Runs where llm-compressor is installed, and not this package: a recipe onto a model, masks out.

run_llmcompressor.py MODEL RECIPE TOKENS(json) OUT(safetensors of bool masks) [PIPELINE]
"""

import json
import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


folder, recipe, tokens_file, out, *pipeline = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
with open(tokens_file, encoding="utf-8") as file:
    tokens = json.load(file)
data = Dataset.from_dict(
    {"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]}
)
oneshot(
    model=model,
    tokenizer=tokenizer,
    dataset=data,
    recipe=recipe,
    max_seq_length=len(tokens[0]),
    num_calibration_samples=len(tokens),
    shuffle_calibration_samples=False,
    **({"pipeline": pipeline[0]} if pipeline else {}),
)
masks = {
    name: (module.weight != 0).contiguous()
    for name, module in model.named_modules()
    if isinstance(module, torch.nn.Linear)
}
save_file(masks, out)
