"""What token windows promise: exact counts, a choice that repeats, and text that is not mangled."""

import hashlib

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from optishear.errors import ConfigError, StorageError
from optishear.text import packaged, tokens
from optishear.text.documents import Document, Source
from optishear.text.sources import SOURCES, TextSpec
from optishear.text.tokens import TokenBatches, token_batches


PARAGRAPHS = [f"Paragraph {n} tells of {n * n} words, and of {n % 7} more." for n in range(200)]


class Written:
    """What of a transformers tokenizer is used here, over one of the `tokenizers` package."""

    def __init__(self, size: int = 300):
        self.backend_tokenizer = Tokenizer(models.BPE())
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<doc>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self.backend_tokenizer.train_from_iterator(PARAGRAPHS, trainer)
        self.texts = 0

    def __call__(self, texts, *, add_special_tokens, return_attention_mask, verbose):
        assert not add_special_tokens
        self.texts += len(texts)
        return {"input_ids": [e.ids for e in self.backend_tokenizer.encode_batch(texts)]}

    def ids(self, text: str) -> list[int]:
        return self.backend_tokenizer.encode(text).ids


class Stream(Source):
    """A source that counts how far it was read."""

    read = 0

    def documents(self, split, field):
        for n in range(2000):
            Stream.read += 1
            yield Document(str(n), f"Document {n} of {split}, some words long.")

    def identity(self):
        return None


@pytest.fixture(scope="module")
def tokenizer() -> Written:
    return Written()


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "words.txt").write_text("\n\n".join(PARAGRAPHS))
    return str(tmp_path / "words.txt")


@pytest.fixture
def stream(monkeypatch) -> Stream:
    monkeypatch.setattr(Stream, "read", 0)
    source = Stream(name="stream", about="", licence="", streamed=True)
    monkeypatch.setitem(SOURCES, "stream", source)
    return source


class TestTheWindows:
    def test_all_of_them_are_the_stream_cut_without_gaps(self, file, tokenizer):
        got = token_batches(TextSpec(file, "all", 0, 24), tokenizer)
        whole = tokenizer.ids("\n\n".join(PARAGRAPHS))
        assert got.tokens.dtype == torch.int64
        assert got.tokens.flatten().tolist() == whole[: len(whole) // 24 * 24]

    def test_documents_are_strung_together_with_a_blank_line_between(self, file, tokenizer):
        got = token_batches(TextSpec(file, "search", 0, 24), tokenizer)
        stream = []
        for text in (d.text for d in tokens.source_of(file).documents("search", "text")):
            stream += (
                [*tokenizer.ids("\n\n"), *tokenizer.ids(text)] if stream else tokenizer.ids(text)
            )
        assert got.tokens.flatten().tolist() == stream[: got.tokens.numel()]

    def test_a_choice_is_some_of_all_windows_in_their_order_and_none_twice(self, file, tokenizer):
        every = token_batches(TextSpec(file, "train", 0, 24), tokenizer).tokens.tolist()
        some = token_batches(TextSpec(file, "train", 9, 24), tokenizer).tokens.tolist()
        places = [every.index(window) for window in some]
        assert len(places) == 9
        assert places == sorted(set(places))
        assert places != list(range(9))

    def test_one_seed_chooses_the_same_and_another_does_not(self, file, tokenizer):
        spec = TextSpec(file, "train", 9, 24)
        one, again = token_batches(spec, tokenizer), token_batches(spec, tokenizer)
        other = token_batches(TextSpec(file, "train", 9, 24, seed=1), tokenizer)
        assert one.hash == again.hash
        assert torch.equal(one.tokens, again.tokens)
        assert one.hash != other.hash

    def test_draws_after_another_share_no_window_and_the_first_is_the_plain_one(
        self, file, tokenizer
    ):
        every = token_batches(TextSpec(file, "train", 0, 24), tokenizer)
        count = len(every.tokens)
        draws = [
            TextSpec(file, "train", 9, 24),
            TextSpec(file, "train", 4, 24, after=(9,)),
            TextSpec(file, "train", 0, 24, after=(9, 4)),
        ]
        found = [token_batches(spec, tokenizer) for spec in draws]
        assert [len(each.tokens) for each in found] == [9, 4, count - 13]
        windows = {tuple(window) for each in found for window in each.tokens.tolist()}
        assert windows == {tuple(window) for window in every.tokens.tolist()}
        assert f"4 of {count} windows of 24 tokens after 9, seed 0" in found[1].source
        with pytest.raises(ConfigError, match=r"were asked for after 13 drawn before"):
            token_batches(TextSpec(file, "train", count, 24, after=(9, 4)), tokenizer)
        with pytest.raises(ConfigError, match="each earlier draw"):
            TextSpec(file, "train", 1, 24, after=(0,))

    def test_the_choice_leaves_the_global_generators_alone(self, file, tokenizer):
        torch.manual_seed(3)
        before = (torch.get_rng_state(), np.random.get_state()[1].copy())
        token_batches(TextSpec(file, "train", 9, 24), tokenizer)
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1] == np.random.get_state()[1]).all()

    def test_where_the_file_lies_does_not_change_the_choice(self, file, tmp_path, tokenizer):
        (tmp_path / "elsewhere").mkdir()
        moved = tmp_path / "elsewhere" / "words.txt"
        moved.write_text("\n\n".join(PARAGRAPHS))
        one = token_batches(TextSpec(file, "train", 9, 24), tokenizer)
        assert one.hash == token_batches(TextSpec(str(moved), "train", 9, 24), tokenizer).hash

    def test_nor_does_what_the_file_is_called_but_what_is_in_it(self, file, tmp_path, tokenizer):
        content = (tmp_path / "words.txt").read_bytes()
        (tmp_path / "other.TXT").write_bytes(content)
        (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + content)
        (tmp_path / "more.txt").write_bytes(content + b"\n\nMore.")
        hashes = {
            name: token_batches(TextSpec(str(tmp_path / name), "train", 9, 24), tokenizer).hash
            for name in ("words.txt", "other.TXT", "marked.txt", "more.txt")
        }
        assert hashes["words.txt"] == hashes["other.TXT"] == hashes["marked.txt"]
        assert hashes["words.txt"] != hashes["more.txt"]

    def test_windows_of_what_has_a_name_are_what_they_were(self, tokenizer, monkeypatch):
        source = Stream(name="stream", about="", licence="")
        monkeypatch.setitem(SOURCES, "stream", source)
        got = token_batches(TextSpec("stream", "train", 3, 24), tokenizer).tokens
        every = token_batches(TextSpec("stream", "train", 0, 24), tokenizer).tokens
        seed = int.from_bytes(hashlib.sha256(b"0|stream|train").digest()[:8], "big")
        chosen = np.random.default_rng(seed).choice(len(every), size=3, replace=False)
        assert torch.equal(got, every[np.sort(chosen)])

    def test_the_provenance_can_be_read(self, file, tokenizer):
        got = token_batches(TextSpec(file, "train", 9, 24, seed=5), tokenizer)
        found = len(token_batches(TextSpec(file, "train", 0, 24), tokenizer).tokens)
        assert got.source == f"words.txt/train, 9 of {found} windows of 24 tokens, seed 5"

    def test_too_short_a_text_says_how_many_windows_there_are(self, file, tokenizer):
        found = len(token_batches(TextSpec(file, "search", 0, 24), tokenizer).tokens)
        with pytest.raises(ConfigError, match=rf"make {found} windows of 24, but 9000 were asked"):
            token_batches(TextSpec(file, "search", 9000, 24), tokenizer)

    def test_a_text_shorter_than_one_window_is_refused_for_all_windows_too(self, file, tokenizer):
        with pytest.raises(ConfigError, match=r"make 0 windows of 900000, but 1 were asked"):
            token_batches(TextSpec(file, "all", 0, 900_000), tokenizer)

    @pytest.mark.parametrize("content", ["", " \n\n \n"])
    def test_an_empty_text_is_refused(self, content, tmp_path, tokenizer):
        (tmp_path / "empty.txt").write_text(content)
        with pytest.raises(ConfigError, match=r"empty.txt/train: holds no text"):
            token_batches(TextSpec(str(tmp_path / "empty.txt"), "train", 1, 8), tokenizer)


class TestStreamedSources:
    def test_only_as_much_is_read_as_there_is_to_choose_from(self, stream, tokenizer):
        got = token_batches(TextSpec("stream", "train", 3, 16), tokenizer)
        assert got.tokens.shape == (3, 16)
        assert f"3 of {tokens.POOL * 3} windows" in got.source
        assert Stream.read < 200

    def test_one_without_an_end_must_be_given_a_number(self, stream, tokenizer, monkeypatch):
        endless = Stream(name="stream", about="", licence="", streamed=True, endless=True)
        monkeypatch.setitem(SOURCES, "stream", endless)
        with pytest.raises(ConfigError, match=r"has no end; say how many"):
            token_batches(TextSpec("stream", "train", 0, 16), tokenizer)


class TestTheEmbeddedArrays:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch, tokenizer):
        texts = PARAGRAPHS[:20]
        ids = np.array([i for t in texts for i in (0, *tokenizer.ids(t))], np.uint16)
        folder = tmp_path / "embedded"
        folder.mkdir()
        np.savez(folder / "tokens.npz", train=ids, search=ids[:90], evaluation=ids[90:200])
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        monkeypatch.setattr(packaged, "EMBEDDED_FOLDER", folder)
        return ids

    def test_its_own_tokenizer_reads_them_as_they_are(self, folder, tokenizer):
        before = tokenizer.texts
        got = token_batches(TextSpec("embedded", "train", 0, 16), tokenizer)
        assert got.tokens.flatten().tolist() == folder[: got.tokens.numel()].tolist()
        assert tokenizer.texts == before

    def test_padding_does_not_make_it_another_tokenizer(self, folder):
        padded = Written()
        padded.backend_tokenizer.enable_padding(length=4000)
        got = token_batches(TextSpec("embedded", "train", 0, 16), padded)
        assert got.tokens[0, 0] == 0
        assert padded.texts == 0

    def test_another_tokenizer_reads_the_text_they_stand_for(self, folder):
        from tokenizers import decoders

        file = str(packaged.EMBEDDED_FOLDER / "tokenizer.json")
        own = Tokenizer.from_file(file)
        own.decoder = decoders.ByteLevel()
        own.save(file)
        other = Written(size=280)
        got = token_batches(TextSpec("embedded", "train", 0, 16), other)
        want = []
        for text in PARAGRAPHS[:20]:
            want += [*other.ids("\n\n"), *other.ids(text)] if want else other.ids(text)
        assert got.tokens.flatten().tolist() == want[: got.tokens.numel()]


class TestTheCacheOfStreams:
    @pytest.fixture(autouse=True)
    def everything_is_cached(self, monkeypatch):
        monkeypatch.setattr(tokens, "CACHED_FROM", 1)

    def test_a_stream_is_tokenised_once(self, file):
        tokenizer = Written()
        first = token_batches(TextSpec(file, "train", 9, 24), tokenizer)
        before = tokenizer.texts
        assert token_batches(TextSpec(file, "train", 9, 24), tokenizer).hash == first.hash
        assert tokenizer.texts == before

    def test_another_tokenizer_or_text_is_not_answered_from_it(self, file, tmp_path):
        first = token_batches(TextSpec(file, "all", 0, 24), Written())
        assert token_batches(TextSpec(file, "all", 0, 24), Written(280)).hash != first.hash
        (tmp_path / "words.txt").write_text("\n\n".join(reversed(PARAGRAPHS)))
        assert token_batches(TextSpec(file, "all", 0, 24), Written()).hash != first.hash

    def test_a_damaged_file_in_it_is_made_again(self, file, tmp_path, caplog):
        tokenizer = Written()
        first = token_batches(TextSpec(file, "train", 9, 24), tokenizer)
        (cached,) = (tmp_path / "cache" / "tokens").glob("*.npy")
        cached.write_bytes(cached.read_bytes()[:200])
        assert token_batches(TextSpec(file, "train", 9, 24), tokenizer).hash == first.hash
        assert "damaged" in caplog.text

    def test_a_cache_that_cannot_be_written_is_a_storage_error(self, file, tmp_path):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "tokens").write_text("in the way")
        with pytest.raises(StorageError, match=r"cannot be written.*OPTISHEAR_CACHE"):
            token_batches(TextSpec(file, "train", 9, 24), Written())


class TestTokenBatches:
    def test_batches_come_in_order_and_the_last_may_be_smaller(self):
        data = TokenBatches.of(torch.arange(35).reshape(7, 5), "made here")
        parts = list(data.batches(3))
        assert [len(part) for part in parts] == [3, 3, 1]
        assert torch.equal(torch.cat(parts), data.tokens)

    def test_the_hash_sees_content_and_shape_and_not_the_stored_type(self):
        ids = torch.arange(24)
        one = TokenBatches.of(ids.reshape(4, 6), "a").hash
        assert len(one) == 16
        assert one == TokenBatches.of(ids.reshape(4, 6).int(), "b").hash
        assert one != TokenBatches.of(ids.reshape(3, 8), "a").hash
        assert one != TokenBatches.of((ids + 1).reshape(4, 6), "a").hash

    def test_a_batch_of_none_is_refused(self):
        with pytest.raises(ConfigError, match=r"a batch of 0 sequences"):
            list(TokenBatches.of(torch.arange(35).reshape(7, 5), "made here").batches(0))
