"""The published rules as their formulas say, in numpy and with none of the code under test."""

import numpy as np

from optishear.calibration.statistics import InputSq


def by_block(views):
    """Weights, Wanda scores and sizes of each block: {block: [(weight, scores, size), ...]}."""
    found = {}
    for view in views:
        weight = view.weight.double().numpy()
        norm = np.sqrt(view.stats[InputSq].total.double().numpy())
        found.setdefault(view.layer.block, []).append((weight, np.abs(weight) * norm))
    return found


def mean_over_weights(views, per_block):
    sizes = {block: sum(w.size for w, _ in layers) for block, layers in by_block(views).items()}
    return sum(per_block[b] * n for b, n in sizes.items()) / sum(sizes.values())


def owl(views, sparsity, lam=0.08, m=5.0):
    """arXiv 2310.05175: D = share of a block's scores above M times their mean, moved linearly to
    densities 2 lambda apart at most, around the target. {block: sparsity}."""
    d = {}
    for block, layers in by_block(views).items():
        scores = np.concatenate([s.ravel() for _, s in layers])
        d[block] = (scores > m * scores.mean()).mean()
    low, high = min(d.values()), max(d.values())
    density = {block: 2 * lam * (value - low) / (high - low) for block, value in d.items()}
    mean = mean_over_weights(views, density)
    return {block: sparsity - (value - mean) for block, value in density.items()}


def hill(weight, bins=100):
    """Hill's estimator over the tail whose power law is nearest in Kolmogorov-Smirnov distance,
    among tails that begin near the peak of the spectrum's histogram over log10."""
    values = np.sort(np.linalg.svd(weight, compute_uv=False) ** 2)
    logs = np.log10(values)
    counts, edges = np.histogram(logs, bins=bins, range=(logs[0], logs[-1]))
    peak = 10 ** edges[np.argmax(counts)]
    best = (np.inf, None)
    for i, start in enumerate(values[:-1]):
        if np.log10(0.95 * peak) <= start <= 1.5 * peak:
            tail = values[i:]
            n = len(tail)
            alpha = 1 + n / (np.log(tail).sum() - n * np.log(start))
            distance = np.abs(1 - (tail / start) ** (1 - alpha) - np.arange(n) / n).max()
            best = min(best, (distance, alpha))
    return best[1]


def alphapruning(views, sparsity, epsilon=0.3):
    """arXiv 2410.10912: ratios from 1 - epsilon at the least exponent to 1 + epsilon at the
    greatest, scaled to the target. {block: sparsity}."""
    alpha = {b: np.mean([hill(w) for w, _ in layers]) for b, layers in by_block(views).items()}
    low, high = min(alpha.values()), max(alpha.values())
    ratio = {b: (1 - epsilon) + 2 * epsilon * (a - low) / (high - low) for b, a in alpha.items()}
    mean = mean_over_weights(views, ratio)
    return {block: sparsity * value / mean for block, value in ratio.items()}
