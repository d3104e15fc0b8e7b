"""Time of what a search solves for before it begins, and of the slopes that its driver asks for."""

from optishear.config.sections import GRADIENT
from optishear.runs.setup import Setup
from optishear.runs.starts import curve_recipes
from optishear.search.slopes import PASSES, RUN_AGAIN
from optishear.tools.plan.costs import Price, Step


def solving_steps(setup: Setup, price: Price) -> list[Step]:
    """What is measured before the search begins: curves of single layers, a descent by slopes."""
    experiment, line, steps = setup.experiment, price.line, list[Step]()
    if experiment.needs_curves:
        settings, base = experiment.search.curves, setup.space.decode(setup.base)
        recipes = len(curve_recipes(setup.space, base, settings.levels))
        tokens = _tokens_aside(setup, settings.tokens)
        written = min(1.0, 2 / len(base.drop))  # one layer, and the one before it made dense again
        each = written * line.fixed + line.per_token * tokens
        what = f"curves of single layers: {recipes:,} recipes on {tokens:,} tokens"
        told = f"{each:.3g} s each, with no prefixes kept"
        steps.append(Step(what, recipes * each / experiment.workers, told))
    if GRADIENT in experiment.search.seeds:
        number = experiment.search.descent.steps + 1
        tokens = _tokens_aside(setup, experiment.search.descent.tokens)
        what = f"descent by slopes: {number:,} recipes on {tokens:,} tokens"
        steps.append(_slopes_step(setup, price, what, number, tokens))
    return steps


def slope_steps(setup: Setup, price: Price, recipes: int) -> list[Step]:
    """What a driver that goes by slopes asks for beside values."""
    experiment, rung = setup.experiment, setup.ladder.rungs[0]
    if not experiment.driver.slopes:
        return []
    what = f"slopes of {recipes:,} candidates on {rung:,} tokens"
    return [_slopes_step(setup, price, what, recipes, rung)]


def _slopes_step(setup: Setup, price: Price, what: str, recipes: int, tokens: int) -> Step:
    """Every layer is written, and made at two other counts; workers share a recipe's batches."""
    experiment, passes = setup.experiment, PASSES + RUN_AGAIN
    each = passes * (price.line.fixed + price.line.per_token * tokens)
    shared = min(experiment.workers, -(-tokens // experiment.batch_tokens))
    told = f"{each:.3g} s each: {passes} forward passes, of which a backward pass is two"
    return Step(what, recipes * each / shared, told)


def _tokens_aside(setup: Setup, tokens: int) -> int:
    return setup.aside(setup.experiment.slope_objective, tokens).samples["search"].units
