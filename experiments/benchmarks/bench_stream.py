"""Peak memory of pruning a model that is in memory whole, against block by block from its files.

    python experiments/benchmarks/bench_stream.py --model smollm2-135m --out results/bench_stream

Each way is a process of its own, and so is one that only imports what both of them import and loads
the embedded model: its peak is taken off. A peak counts pages of mapped files that were touched as
well. Beside them: seconds, and whether both wrote the same tensors.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from bench_common import Aim, machine, markdown
from help_text import first_line
from safetensors import safe_open

from optishear.models.folder import ModelFolder
from optishear.models.load import load
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.texts import usual_text


MB = 1e6
WAYS = {"whole": prune_to, "streamed": prune_streamed}
LIBRARIES, TEXT = "libraries", "text"


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", choices=[LIBRARIES, TEXT, *WAYS])
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak_of:
        print(json.dumps(peak_of(given)))
        return
    with TemporaryDirectory() as scratch:
        rows = [measured(what, given, Path(scratch) / what) for what in (LIBRARIES, TEXT, *WAYS)]
        same = tensors(Path(scratch) / "whole") == tensors(Path(scratch) / "streamed")
    frame = pd.DataFrame(rows)
    frame["above_libraries_mb"] = frame.peak_mb - frame.peak_mb[0]
    whole, streamed = (frame.above_libraries_mb[frame.process == way].item() for way in WAYS)
    aim = Aim("peak above libraries, streamed over whole", streamed / whole, 0.45, at_least=False)
    folder = ModelFolder.of(given.model)
    size = folder.numbers * torch.finfo(getattr(torch, given.dtype)).bits / 8 / MB
    lines = [
        "# Pruning from the files against pruning in memory",
        "\n".join(f"- {line}" for line in machine(torch.device("cpu"), given.threads, mpax=False)),
        f"`{given.model}` ({size:.0f} MB of weights in {given.dtype}), {given.method} at "
        f"{given.sparsity:g}, {given.sequences} calibration sequences of {given.seq_len} tokens.",
        markdown(frame),
        f"- {aim.verdict}\n- the same tensors bit for bit: {'yes' if same else 'NO'}",
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        frame.to_csv(given.out / "memory.csv", index=False, float_format="%.6g")
        (given.out / "summary.md").write_text(text, encoding="utf-8")


def measured(what: str, given: argparse.Namespace, to: Path) -> dict[str, object]:
    """The row of one process."""
    names = ("model", "method", "sparsity", "sequences", "seq_len", "dtype", "threads")
    words = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in names]
    command = [sys.executable, __file__, *words, f"--peak-of={what}", f"--to={to}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return {"process": what, "peak_mb": peak / MB, "seconds": round(seconds, 1)}


def peak_of(given: argparse.Namespace) -> tuple[int, float]:
    """Bytes resident at most in this process, which does nothing but what is asked for, and the
    seconds that it took."""
    tokenizer = load("embedded").tokenizer  # imports what it needs
    source = usual_text(given.model, "train").source
    text = TextSpec(source, "train", given.sequences, given.seq_len)
    started = time.perf_counter()
    if given.peak_of == TEXT:
        token_batches(text, tokenizer)
    elif given.peak_of in WAYS:
        recipe_for = NamedMethod(given.method, given.sparsity).on
        WAYS[given.peak_of](given.model, recipe_for, given.to, How(text, given.dtype))
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]), seconds  # type: ignore[index]


def tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    """By name a tensor's dtype and bytes."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name)
                found[name] = (str(tensor.dtype), tensor.contiguous().view(torch.uint8).numpy())
    return {name: (dtype, data.tobytes()) for name, (dtype, data) in found.items()}


if __name__ == "__main__":
    main()
