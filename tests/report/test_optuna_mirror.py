"""A run as an Optuna study: the same values, the same front, nothing twice."""

import json
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from made_up_run import begin, go_on
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from optishear.errors import ConfigError, StorageError
from optishear.records.run_directory import read_json, write_json
from optishear.report.evaluations import evaluations_table
from optishear.report.optuna_mirror import Mirror, declared, distributions, open_storage
from optishear.report.watching import RunWatch


def study_of(mirror):
    return optuna.load_study(study_name=mirror.name, storage=mirror.storage)


@pytest.fixture(params=["study.log", "study.db"])
def file(request, tmp_path):
    return tmp_path / request.param


def test_the_best_trials_are_the_front(tmp_path, file):
    directory = begin(tmp_path, rungs=(128, 512))
    found = go_on(directory)
    mirror = Mirror(directory, open_storage(file))
    assert mirror.update() == len(found.rungs[512])
    study = study_of(mirror)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["sparsity", "reconstruction"]
    best = {trial.user_attrs["key"] for trial in study.best_trials}
    assert best == set(RunWatch(directory).snapshot().state.front)
    for trial in study.trials:
        evaluation = found.rungs[512][trial.user_attrs["key"]]
        if evaluation.failed:
            assert trial.state == TrialState.FAIL
            assert trial.user_attrs["reason"] == evaluation.reason
        else:
            values = evaluation.values
            assert trial.values == [values["sparsity"], values["reconstruction"]]
            assert trial.user_attrs["kl"] == values["kl"]
        assert trial.user_attrs["rung"] == 512
        took = trial.datetime_complete - trial.datetime_start
        assert took == timedelta(seconds=evaluation.seconds)


def test_a_second_time_adds_nothing_and_new_evaluations_come_behind_the_old(tmp_path, file):
    directory = begin(tmp_path)
    go_on(directory, until=30)
    mirror = Mirror(directory, open_storage(file))
    assert (mirror.update(), mirror.update(), mirror.trials) == (30, 0, 30)
    before, content = study_of(mirror).trials, file.read_bytes()
    assert Mirror(directory, open_storage(file)).update() == 0
    assert file.read_bytes() == content
    go_on(directory)
    other = Mirror(directory, open_storage(file))
    assert [other.update(), mirror.update()] == [30, 0]
    after = study_of(other).trials
    assert len(after) == 60
    assert [t.values for t in after[:30]] == [t.values for t in before]
    assert [t.number for t in after] == list(range(60))


def test_parameters_are_the_features_that_vary_in_all_trials_alike(tmp_path):
    directory = begin(tmp_path)
    go_on(directory)
    mirror = Mirror(directory, open_storage(tmp_path / "x.log"))
    mirror.update()
    table = evaluations_table(directory)[: mirror.trials]
    trials = study_of(mirror).trials
    ranges = {
        name: {trial.distributions[name] for trial in trials if name in trial.params}
        for trial in trials
        for name in trial.params
    }
    assert all(len(kinds) == 1 for kinds in ranges.values())
    most = table["metric.delta"].max()  # which a canonical form may bring beyond the space's end
    assert ranges["metric.delta"] == {FloatDistribution(0.0, max(1.5, most))}
    assert ranges["sparsity.block.0"] == {FloatDistribution(0.0, 1.0)}
    assert isinstance(*ranges["metric"], CategoricalDistribution)
    assert "pattern" not in ranges
    for name in ranges:
        assert [t.params.get(name) for t in trials] == [
            None if value != value else value for value in table[name].tolist()
        ]


def test_a_feature_that_comes_to_vary_rewrites_the_study(tmp_path):
    directory = begin(tmp_path)
    go_on(directory, until=1)
    mirror = Mirror(directory, open_storage(tmp_path / "x.log"))
    assert (mirror.update(), mirror.anew) == (1, False)
    assert study_of(mirror).trials[0].params == {}
    go_on(directory, until=20)
    assert (mirror.update(), mirror.anew) == (19, True)
    assert all("sparsity.block.1" in trial.params for trial in study_of(mirror).trials)
    assert len(optuna.get_all_study_names(mirror.storage)) == 1


def test_trials_follow_each_other_as_the_evaluations_did(tmp_path):
    directory = begin(tmp_path)
    go_on(directory, until=3)
    header, *lines = directory.journal.read_text().splitlines()
    lines = [
        json.dumps(json.loads(line) | {"seconds": 1.5 * number})
        for number, line in enumerate(lines, start=1)
    ]
    directory.journal.write_text("\n".join([header, *lines]) + "\n")
    mirror = Mirror(directory, open_storage(tmp_path / "x.log"))
    mirror.update()
    trials = study_of(mirror).trials
    begun = trials[0].datetime_start
    assert begun.timestamp() == datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
    starts = [(trial.datetime_start - begun).total_seconds() for trial in trials]
    ends = [(trial.datetime_complete - begun).total_seconds() for trial in trials]
    assert (starts, ends) == ([0.0, 1.5, 4.5], [1.5, 4.5, 9.0])


def test_a_lower_rung_is_a_study_of_its_own(tmp_path):
    directory = begin(tmp_path, rungs=(128, 512))
    found = go_on(directory)
    storage = open_storage(tmp_path / "x.log")
    low, top = Mirror(directory, storage, 128), Mirror(directory, storage)
    assert (low.update(), top.update()) == (60, len(found.rungs[512]))
    assert len(optuna.get_all_study_names(storage)) == 2
    with pytest.raises(ConfigError, match="--rung 64: this run measures on 128, 512"):
        Mirror(directory, storage, 64).update()


def test_what_numbers_and_words_may_be():
    rows = [{"solver": "mask", "n": 1, "x": 0.5, "odd": "a"}, {"solver": "alps", "n": 4, "x": 0.7}]
    rows.append({"solver": "mask", "n": 2, "x": 0.5, "odd": 3.0})
    space = {"solver": [{"name": "alps", "steps": {"choice": [1, 8]}}], "metric": []}
    found = distributions(rows, declared(space) | {"n": [0, 9], "x": [0.0]})
    assert found == {
        "solver": CategoricalDistribution(["alps", "mask"]),
        "n": IntDistribution(0, 9),
        "x": FloatDistribution(0.0, 0.7),
        "odd": CategoricalDistribution(["3.0", "a"]),
    }
    assert declared(space) == {"solver.steps": [1, 8]}


def test_files_that_are_no_studies_are_left_alone(tmp_path):
    for name, content in (("a.log", "notes\n"), ("b.db", "notes\n"), ("c", '{"x": 1}\n')):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match="Choose another file with --study"):
            open_storage(tmp_path / name)
        assert (tmp_path / name).read_text() == content
    with pytest.raises(StorageError, match="Choose another place with --study"):
        open_storage(tmp_path)


def test_a_study_of_the_same_name_that_is_somebody_elses_is_refused(tmp_path):
    directory = begin(tmp_path)
    go_on(directory, until=3)
    storage = open_storage(tmp_path / "x.log")
    study = optuna.create_study(
        storage=storage,
        study_name="made-up abc123, 512 tokens",
        directions=["maximize", "minimize"],
    )
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    with pytest.raises(ConfigError, match="no mirror of this run"):
        Mirror(directory, storage).update()
    assert len(study.trials) == 1


def test_an_older_manifest_whose_text_is_taken_whole_waits_for_the_first_evaluation(tmp_path):
    directory = begin(tmp_path)
    manifest = read_json(directory.manifest)
    changed = json.loads(json.dumps(manifest))
    changed["experiment"]["text"]["search"]["sequences"] = 0
    write_json(directory.manifest, changed)
    storage = open_storage(tmp_path / "x.log")
    with pytest.raises(ConfigError, match="nothing is measured yet"):
        Mirror(directory, storage).update()
    write_json(directory.manifest, manifest)
    go_on(directory, until=5)
    write_json(directory.manifest, changed)
    assert Mirror(directory, storage).update() == 5
