"""A zero-shot task of one's own as users write it: a YAML file and its questions beside it."""

import json

import yaml


def task_file(folder, rows, *, name="known", **settings):
    """The path of `NAME.yaml`, a multiple-choice task of these rows, with `settings` of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task))
    return path
