"""What a model's Hub id promises: one commit, whole or a sentence, from the cache where there is no
Hub, and nothing fetched that is not wanted."""

import logging

import pytest
from hub_imitation import GOOD, STRANGER, Trouble

from optishear.assets.hub import said
from optishear.errors import ConfigError, StorageError
from optishear.models.catalog import folder_of
from optishear.models.hub import commit_in


WEIGHTS = bytes(range(256)) * 2000
PLAIN = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        folder_of(name)
    return str(caught.value)


class TestWhatIsFetched:
    def test_is_the_model_and_what_belongs_to_it(self, hub):
        extra = {"README.md": b"card", "generation_config.json": b"{}"}
        commit = hub.model("org/tiny", {**PLAIN, **extra})
        folder = folder_of("org/tiny")
        assert {file.name for file in folder.iterdir()} == {*PLAIN, *extra}
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert commit_in(folder) == commit

    def test_is_all_shards(self, hub):
        shards = {f"model-0000{n}-of-00003.safetensors": WEIGHTS[n:] for n in (1, 2, 3)}
        hub.model("org/sharded", {"model.safetensors.index.json": b"{}", **shards})
        assert len(list(folder_of("org/sharded").glob("*.safetensors"))) == 3

    def test_is_no_code_no_pickle_no_second_copy_and_nothing_in_folders(self, hub):
        unwanted = {
            "modeling_tiny.py": b"raise SystemExit",
            "pytorch_model.bin": WEIGHTS,
            "consolidated.safetensors": WEIGHTS,
            "consolidated-00001-of-00002.safetensors": WEIGHTS,
            "original/model.safetensors": WEIGHTS,
            "model.gguf": WEIGHTS,
        }
        hub.model("org/tiny", {**PLAIN, **unwanted})
        folder_of("org/tiny")
        assert set(hub.files_asked()) | set(hub.files_asked("HEAD")) == set(PLAIN)

    def test_is_asked_for_once_in_a_process_and_files_that_are_here_not_again(
        self, hub, another_process
    ):
        hub.model("org/tiny", PLAIN)
        folder_of("org/tiny")
        before = len(hub.asked)
        folder_of("org/tiny")
        assert len(hub.asked) == before
        another_process()
        folder_of("org/tiny")
        assert len(hub.asked) == before + 1  # what main stands for now


class TestARevision:
    def test_is_a_tag_a_branch_or_a_commit(self, hub):
        old = hub.model("org/tiny", {**PLAIN, "README.md": b"old"}, "v1.0")
        new = hub.model("org/tiny", {**PLAIN, "README.md": b"new"})
        pull = hub.model("org/tiny", {**PLAIN, "README.md": b"pull"}, "refs/pr/3")
        for revision, commit in {"v1.0": old, old: old, "main": new, "refs/pr/3": pull}.items():
            assert commit_in(folder_of(f"org/tiny@{revision}")) == commit
        assert (folder_of("org/tiny@v1.0") / "README.md").read_bytes() == b"old"

    def test_that_does_not_exist_is_named(self, hub):
        hub.model("org/tiny", PLAIN)
        to_do = f"Give a branch, tag or commit of {hub.url}/org/tiny."
        assert refused("org/tiny@v9") == f"org/tiny@v9: has no revision 'v9'. {to_do}"

    def test_is_the_same_through_a_process_whatever_is_pushed_in_between(
        self, hub, another_process
    ):
        first = hub.model("org/tiny", PLAIN)
        assert commit_in(folder_of("org/tiny")) == first
        second = hub.model("org/tiny", {**PLAIN, "README.md": b"new"})
        assert commit_in(folder_of("org/tiny")) == first
        another_process()
        assert commit_in(folder_of("org/tiny")) == second

    def test_is_no_part_of_a_folder_elsewhere(self, tmp_path):
        assert commit_in(tmp_path) is None
        assert commit_in(tmp_path / "snapshots" / "tiny") is None


class TestADownloadThatBreaks:
    @pytest.mark.parametrize("what", ["reset", "cut", "stall"])
    def test_goes_on_by_itself(self, hub, what):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble(what, times=2)
        assert (folder_of("org/tiny") / "model.safetensors").read_bytes() == WEIGHTS

    @pytest.mark.parametrize("what", ["cut", "stall"])
    def test_goes_on_where_it_was(self, hub, what):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble(what, times=1)
        folder_of("org/tiny")
        again = [each for each in hub.asked if each.path.endswith("model.safetensors")][-1]
        assert again.range is not None
        assert int(again.range.removeprefix("bytes=").rstrip("-")) > len(WEIGHTS) // 3

    def test_again_and_again_is_said_in_one_sentence(self, hub):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble("reset")
        words = refused("org/tiny")
        assert words.startswith("org/tiny: could not be had from the Hugging Face hub (ReadError: ")
        assert words.endswith("See to the connection; what has come is kept.")
        assert "\n" not in words

    def test_keeps_what_has_come(self, hub):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble("reset")
        refused("org/tiny")
        hub.trouble.clear()
        hub.asked.clear()
        folder_of("org/tiny")
        assert hub.files_asked() == ["model.safetensors"]

    def test_of_a_hub_that_fails_says_so(self, hub):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble(500)
        assert "the Hugging Face hub fails (HfHubHTTPError: " in refused("org/tiny")

    def test_for_want_of_room_is_of_the_disk(self, hub, monkeypatch):
        def full(*_args, **_more):
            raise OSError(28, "No space left on device")

        hub.model("org/tiny", PLAIN)
        monkeypatch.setattr("huggingface_hub.snapshot_download", full)
        with pytest.raises(StorageError, match=r"the disk is full .* HF_HOME"):
            folder_of("org/tiny")


class TestWithoutTheHub:
    def test_what_was_fetched_is_there_with_one_warning(self, hub, another_process, caplog):
        commit = hub.model("org/tiny", PLAIN)
        folder = folder_of("org/tiny")
        another_process()
        hub.down = 503
        with caplog.at_level(logging.WARNING):
            assert folder_of("org/tiny") == folder
            assert folder_of("org/tiny") == folder
        assert [record.message.count(commit) for record in caplog.records] == [1]

    @pytest.mark.parametrize("name", ["org/tiny", "org/tiny@v1"])
    def test_a_closed_port_is_as_good_as_a_failing_hub(self, hub, another_process, name):
        hub.model("org/tiny", PLAIN, name.partition("@")[2] or "main")
        folder = folder_of(name)
        another_process()
        hub.close()
        assert folder_of(name) == folder

    def test_offline_mode_asks_nothing_and_warns_of_nothing(
        self, hub, another_process, monkeypatch, caplog
    ):
        hub.model("org/tiny", PLAIN)
        folder = folder_of("org/tiny")
        another_process()
        hub.asked.clear()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert folder_of("org/tiny") == folder
        assert not hub.asked
        assert not caplog.records

    def test_what_was_never_fetched_gets_a_sentence(self, hub, monkeypatch):
        hub.close()
        words = refused("org/tiny")
        assert words.startswith(
            "org/tiny: could not be had from the Hugging Face hub (ConnectError"
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE forbids to ask. Run once without it." in refused("org/tiny")

    def test_a_hub_that_never_answers_is_given_up(self, hub, monkeypatch):
        monkeypatch.setattr("optishear.assets.hub.ANSWER", 0.2)
        monkeypatch.setattr(type(hub), "process_request", lambda *_: hub.released.wait())
        assert "(ReadTimeout: " in refused("org/tiny")

    def test_half_a_model_is_not_taken_for_one(self, hub, another_process):
        hub.model("org/tiny", PLAIN)
        hub.trouble["model.safetensors"] = Trouble("reset")
        refused("org/tiny")
        another_process()
        hub.down = 503
        assert refused("org/tiny").startswith("org/tiny: could not be had")


class TestWhoMayReadIt:
    def test_a_gated_model_without_a_token_is_told_where_its_terms_are(self, hub):
        hub.model("org/gated", PLAIN, gated=True)
        words = refused("org/gated")
        assert "is gated (401). Accept its terms at" in words
        assert "hf auth login" in words

    def test_a_gated_model_whose_terms_are_not_accepted_is_told_to_accept_them(
        self, hub, monkeypatch
    ):
        hub.model("org/gated", PLAIN, gated=True)
        monkeypatch.setenv("HF_TOKEN", STRANGER)
        words = refused("org/gated")
        assert "its terms are not accepted by the account of your token (403)" in words
        assert f"Accept them at {hub.url}/org/gated" in words
        assert "login" not in words

    def test_a_gated_model_comes_to_whom_it_is_granted(self, hub, monkeypatch):
        hub.model("org/gated", PLAIN, gated=True)
        monkeypatch.setenv("HF_TOKEN", GOOD)
        assert (folder_of("org/gated") / "model.safetensors").is_file()

    def test_what_does_not_exist_may_be_private(self, hub, monkeypatch):
        hub.model("org/secret", PLAIN, private=True)
        for name in ("org/secret", "org/none"):
            assert "hub has no such model, or it is private and needs `hf auth" in refused(name)
        monkeypatch.setenv("HF_TOKEN", STRANGER)
        assert "or the account of your token may not see it" in refused("org/secret")

    def test_a_token_that_nobody_knows_is_said_to_be_that(self, hub, monkeypatch):
        hub.model("org/tiny", PLAIN)
        monkeypatch.setenv("HF_TOKEN", "hf_expiredLongAgo")
        words = refused("org/tiny")
        assert "does not know your token (401)" in words
        assert "expired" not in words

    @pytest.mark.parametrize("token", [STRANGER, "hf_with\x01control", "plain\x01secret"])
    def test_a_token_is_never_printed(self, hub, monkeypatch, token, capfd):
        hub.model("org/gated", PLAIN, gated=True)
        monkeypatch.setenv("HF_TOKEN", token)
        printed = refused("org/gated") + "".join(capfd.readouterr())
        assert not [part for part in (token, token[:7], token[-6:]) if part in printed]

    def test_nor_is_a_signed_address(self):
        signed = OSError(
            "for url https://x.y/z?X-Amz-Signature=abcdef&a=b with Bearer hf_abcdefgh'"
        )
        assert said(signed) == "OSError: for url https://x.y/z?… with Bearer TOKEN'"


class TestWeightsThatAreNotRead:
    def test_pickles_alone_are_told_what_they_are(self, hub):
        hub.model("org/old", {"config.json": b"{}", "pytorch_model.bin": WEIGHTS})
        words = refused("org/old")
        assert "has no safetensors weights, only pytorch_model.bin, which is not fetched" in words
        assert "org/old@refs/pr/NUMBER" in words
        assert "pytorch_model.bin" not in hub.files_asked()

    def test_a_conversion_in_a_pull_request_is_had_by_its_revision(self, hub):
        hub.model("org/old", {"config.json": b"{}", "pytorch_model.bin": WEIGHTS})
        hub.model("org/old", {**PLAIN, "pytorch_model.bin": WEIGHTS}, "refs/pr/1")
        assert (folder_of("org/old@refs/pr/1") / "model.safetensors").is_file()

    @pytest.mark.parametrize(
        ("file", "words"),
        [
            ("consolidated.safetensors", "only as consolidated.safetensors, in its maker's own"),
            ("model.Q4.gguf", r"has GGUF files only (model.Q4.gguf). Download one"),
            ("notes.md", "has no safetensors weights beside its config.json"),
        ],
    )
    def test_other_forms_are_named(self, hub, file, words):
        hub.model("org/other", {"config.json": b"{}", file: WEIGHTS})
        assert words in refused("org/other")


class TestNamesThatAreNone:
    def test_one_without_an_owner_is_told_the_form(self):
        words = refused("gpt2")
        assert words.startswith("No model is called 'gpt2'. There are: ")
        assert "A model of the Hugging Face hub is ORG/NAME, such as openai-community/gpt2" in words

    @pytest.mark.parametrize(
        ("address", "id"),
        [
            ("https://huggingface.co/org/name", "org/name"),
            ("https://huggingface.co/org/name/tree/main", "org/name"),
            ("https://huggingface.co/org/name/tree/v1.0?x=y", "org/name@v1.0"),
            ("huggingface.co/org/name/", "org/name"),
            ("https://hf.co/org/name/blob/main/config.json", "org/name"),
            ("hf://org/name", "org/name"),
            ("hf://models/org/name", "org/name"),
        ],
    )
    def test_the_address_of_a_page_is_told_the_id(self, address, id):
        assert refused(address) == f"{address}: is the address of a page. Give the model's id: {id}"

    def test_the_page_of_a_dataset_is_no_model(self):
        words = refused("https://huggingface.co/datasets/org/name")
        assert words.endswith("is the page of a dataset, not of a model; dataset:org/name is how it is named as a text.")  # fmt: skip  # noqa: E501
