"""Which of transformers' auto classes opens a configuration: a language model's, or a wrapper's.

A wrapper has a language model beside a tower for images or sound. Where transformers has a class
for its text alone under `AutoModelForCausalLM`, that one is taken.
"""

from pathlib import Path
from typing import Any


def auto_class(config: Any) -> Any:
    """The first that knows it; `AutoModelForCausalLM`, which says so, where none of them does."""
    import transformers

    known = (
        (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.AutoModelForCausalLM),
        (
            transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
            transformers.AutoModelForImageTextToText,
        ),
        (transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING, transformers.AutoModelForMultimodalLM),
    )
    found = (auto for mapping, auto in known if type(config) in mapping)
    return next(found, transformers.AutoModelForCausalLM)


def auto_class_of(folder: Path) -> Any:
    """The same of a folder; whatever transformers raises of its config.json, this does too."""
    import transformers

    return auto_class(
        transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    )
