"""What layers read, by hooks on whole forward passes: the slow reference for statistics."""

import torch


def read_by(model, layers, batches):
    """What each of these layers' input sites reads of all batches, in fp64, by site."""
    seen, hooks = {layer.site: [] for layer in layers}, []
    for site, rows in seen.items():

        def listen(_module, args, rows=rows):
            rows.append(args[0].flatten(0, -2).double())

        hooks.append(model.get_submodule(site).register_forward_pre_hook(listen))
    with torch.no_grad():
        for batch in batches:
            model(batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {site: torch.cat(rows) for site, rows in seen.items()}
