"""That text for one purpose is refused for another: by its name at first, then by its tokens."""

import pytest
import torch

from optishear.errors import ConfigError
from optishear.text.disjoint import refuse_overlap, refuse_shared_text
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches


def spec(source: str, split: str, seed: int = 0) -> TextSpec:
    return TextSpec(source, split, 4, 32, seed=seed)


def random_tokens(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 50_000, (rows, columns), generator=generator)


def data(tokens: torch.Tensor, name: str = "made here") -> TokenBatches:
    return TokenBatches.of(tokens, name)


class TestByName:
    def test_a_split_for_each_purpose_is_allowed(self):
        refuse_overlap(
            {
                "calibration": spec("sotu", "train"),
                "search": spec("sotu", "search"),
                "evaluation": spec("sotu", "evaluation"),
                "transfer": spec("wikitext", "all"),
            }
        )

    def test_one_split_for_two_purposes_is_refused_whatever_the_seeds(self):
        sets = {"calibration": spec("sotu", "train"), "search": spec("sotu", "train", seed=1)}
        with pytest.raises(ConfigError, match=r"calibration and search would read the same text"):
            refuse_overlap(sets)

    @pytest.mark.parametrize("splits", [("all", "train"), ("evaluation", "all"), ("all", "all")])
    def test_all_of_a_source_holds_each_of_its_splits(self, splits):
        sets = {"a": spec("sotu", splits[0]), "b": spec("sotu", splits[1])}
        with pytest.raises(ConfigError, match=rf"sotu/{splits[0]} and sotu/{splits[1]}"):
            refuse_overlap(sets)

    def test_two_spellings_of_one_file_are_one_source(self, tmp_path, monkeypatch):
        (tmp_path / "a.txt").write_text("words")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"one and two"):
            refuse_overlap({"one": spec("a.txt", "all"), "two": spec(f"{tmp_path}/a.txt", "train")})


class TestByTokens:
    def test_different_text_passes(self):
        sets = {name: data(random_tokens(20, 96, seed)) for seed, name in enumerate("abc")}
        refuse_shared_text(sets)

    @pytest.mark.parametrize(("length", "refused"), [(63, False), (64, True), (80, True)])
    def test_a_run_is_found_at_any_offset_from_64_tokens_on(self, length, refused):
        one, other = random_tokens(5, 128, 0), random_tokens(7, 160, 1)
        other[4, 31 : 31 + length] = one[2, 17 : 17 + length]
        sets = {"calibration": data(one), "evaluation": data(other)}
        if not refused:
            refuse_shared_text(sets)
            return
        sentence = (
            rf"calibration and evaluation share text: {length} of the 1120 .* 4 from token 31"
        )
        with pytest.raises(ConfigError, match=sentence):
            refuse_shared_text(sets)

    def test_a_run_across_two_sequences_is_not_one(self):
        one, other = random_tokens(5, 96, 0), random_tokens(7, 96, 1)
        other[2, -40:] = one[1, :40]
        other[3, :40] = one[1, 40:80]
        refuse_shared_text({"a": data(one), "b": data(other)})

    def test_the_same_data_twice_is_all_shared(self):
        one = random_tokens(300, 96, 0)
        with pytest.raises(ConfigError, match=r"28800 of the 28800 tokens"):
            refuse_shared_text({"a": data(one), "b": data(one)})

    def test_every_two_of_several_sets_are_compared(self):
        one, two, three = (random_tokens(5, 96, seed) for seed in range(3))
        three[0, 3:70] = two[4, 20:87]
        with pytest.raises(ConfigError, match=r"search and evaluation share text: 67 of"):
            refuse_shared_text(
                {"calibration": data(one), "search": data(two), "evaluation": data(three)}
            )

    def test_sequences_shorter_than_the_window_are_compared_by_half_their_length(self):
        one, other = random_tokens(5, 20, 0), random_tokens(7, 96, 1)
        other[6, 50:59] = one[3, 11:20]
        refuse_shared_text({"a": data(one), "b": data(other)})
        other[6, 50:60] = one[3, 10:20]
        with pytest.raises(ConfigError, match=r"10 of the 672 tokens .* runs of 10 tokens"):
            refuse_shared_text({"a": data(one), "b": data(other)})

    def test_the_window_can_be_set(self):
        one, other = random_tokens(5, 96, 0), random_tokens(7, 96, 1)
        other[6, 50:62] = one[3, 11:23]
        refuse_shared_text({"a": data(one), "b": data(other)}, window=13)
        with pytest.raises(ConfigError, match=r"runs of 12 tokens"):
            refuse_shared_text({"a": data(one), "b": data(other)}, window=12)

    def test_runs_of_one_repeated_token_are_told_apart_by_their_length(self):
        one, other = random_tokens(3, 96, 0), random_tokens(4, 96, 1)
        one[0, :64], other[3, 20:83] = 7, 7
        refuse_shared_text({"a": data(one), "b": data(other)})
        other[3, 83] = 7
        with pytest.raises(ConfigError, match=r"64 of the 384 tokens"):
            refuse_shared_text({"a": data(one), "b": data(other)})
