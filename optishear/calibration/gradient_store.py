"""The store of per-sequence gradients: taken once for one content, mapped from disk later."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from filelock import FileLock
from torch import nn

from optishear.calibration.gradient_file import (
    GradientStore,
    gradient_bytes,
    read_gradients,
    write_gradients,
)
from optishear.calibration.gradient_samples import (
    CollectGradients,
    refuse_without_gradients,
    sequence_by_sequence,
)
from optishear.errors import StorageError
from optishear.recipe.layout import ModelLayout
from optishear.records.atomic import whole_folder
from optishear.records.cache import OTHER_CACHE
from optishear.tasks import Batch


log = logging.getLogger(__name__)


def load_or_collect_gradients(
    folder: Path,
    model: nn.Module,
    layout: ModelLayout,
    samples: Batch,
    notice: Callable[[str], None] | None = None,
    collect: CollectGradients | None = None,
) -> GradientStore:
    """G_s = dL_s / dW of each sample s and prunable W, from `folder` where it was done before.

    L_s is the mean loss of a sample (of a sequence's next tokens). `folder` is that of just
    these gradients (`experiment.keys`). A damaged one is collected anew, with a warning. `notice`
    is told how large the files will be before they are made, and how long it took after. `collect`
    None takes them in this process. Of several processes that want the same, one collects.
    """
    fill = partial(collect or sequence_by_sequence(model, layout), samples)
    advice = f"{OTHER_CACHE}, or use fewer gradient sequences than {len(samples)}"
    try:
        if (store := _known(folder)) is not None:
            return store
        refuse_without_gradients(model, layout, samples)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if (store := _known(folder)) is not None:  # another process had the lock
                return store
            _refuse_full_disk(folder.parent, layout, len(samples))
            size = gradient_bytes(layout, len(samples))
            told = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
            notice = notice or (lambda text: None)
            notice(f"collecting gradients of {len(samples)} sequences: {told} on disk")
            with whole_folder(folder, advice) as half:
                seconds = write_gradients(half, layout, len(samples), fill)
            notice(f"collected gradients of {len(samples)} sequences in {seconds:.1f} s")
        return read_gradients(folder)
    except OSError as error:
        raise StorageError(
            f"Gradients could not be kept in {folder} ({error}). Free some space there, or "
            f"{advice}."
        ) from error


def _known(folder: Path) -> GradientStore | None:
    """What was collected before; None, and nothing is left of it, where it is damaged."""
    if not folder.exists():
        return None
    try:
        return read_gradients(folder)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): collecting its gradients anew.", folder, error)
        with suppress(FileNotFoundError):  # another process may be removing it, too
            shutil.rmtree(folder)
    return None


def _refuse_full_disk(cache: Path, layout: ModelLayout, samples: int) -> None:
    needed, free = gradient_bytes(layout, samples), shutil.disk_usage(cache).free
    if free < needed:
        raise StorageError(
            f"Gradients of {samples} sequences take {needed:,} bytes in fp16, and {cache} has "
            f"{free:,} bytes free. Use fewer gradient sequences ({needed // samples:,} bytes "
            f"each), free some space, or choose another cache folder."
        )
