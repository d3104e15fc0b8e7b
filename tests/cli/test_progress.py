"""What a search says in a pipe, evaluation by evaluation."""

from layouts import small_layout

from optishear.cli.progress import LiveWatcher
from optishear.recipe.recipe import Recipe
from optishear.search.evaluator import Evaluation
from optishear.search.loop import Found


def followed(rungs, evaluations, capsys):
    """The lines of a watcher which is told of these (rung, index, error or None)."""
    watcher, found = LiveWatcher({"error": False}, None), Found({rung: {} for rung in rungs})
    watcher.stage("searching")
    for rung, index, error in evaluations:
        drop = dict.fromkeys(small_layout().sizes, index)
        values = None if error is None else {"error": error}
        evaluation = Evaluation(Recipe({"name": "magnitude"}, drop, "layer"), rung, values, "lost")
        found.rungs[rung][evaluation.recipe.key] = evaluation
        watcher.evaluated(found, evaluation, total=4)
    return capsys.readouterr().err.splitlines()


def test_the_best_is_of_the_top_rung_alone_and_every_rung_is_counted(capsys):
    low = [(64, 0, 1.0), (64, 1, 0.5), (64, 2, None), (64, 3, 0.25)]
    lines = followed((64, 256), [*low[:2], (256, 1, 9.0), *low[2:], (256, 3, 8.0)], capsys)
    assert lines[0].startswith("  1/4")
    assert lines[0].endswith("1 on 64, 0 on 256 tokens")
    assert "climbing to 256 search tokens" in lines[2]
    assert lines[-1].startswith("  4/4")
    assert lines[-1].endswith("4 on 64, 1 on 256 tokens, front 1, knee error 9, 1 failed")


def test_without_rungs_it_says_the_front_and_how_many_failed(capsys):
    lines = followed((256,), [(256, 0, None), (256, 1, 3.0), (256, 2, 2.0)], capsys)
    assert lines[0].endswith("left  1 failed")
    assert lines[-1].endswith("left  front 1, knee error 2, 1 failed")
