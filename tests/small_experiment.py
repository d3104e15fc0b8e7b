"""An experiment on the embedded model that takes seconds, as an experiment file would say it."""

EMBEDDED = {
    "model": "embedded",
    "threads": 1,
    "text": {
        "calibration": {"source": "embedded", "split": "train", "sequences": 4, "seq_len": 64},
        "search": {"source": "embedded", "split": "search", "sequences": 2, "seq_len": 64},
        "evaluation": {"source": "embedded", "split": "evaluation", "sequences": 3, "seq_len": 64},
    },
    "space": "metric_and_blocks",
}

CHECKED = {
    "model": "embedded",
    "text": {
        "calibration": {"source": "embedded", "split": "train", "sequences": 4, "seq_len": 32},
        "search": {"source": "embedded", "split": "search", "sequences": 4, "seq_len": 32},
        "evaluation": {"source": "embedded", "split": "evaluation", "sequences": 4, "seq_len": 32},
    },
}
"""One without a space, that is read and checked but never run."""
