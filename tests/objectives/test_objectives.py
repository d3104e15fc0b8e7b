import math

import pytest
import torch
from layouts import small_layout

from optishear.errors import ConfigError, NumericalError
from optishear.models.head import Head
from optishear.objectives import OBJECTIVES, make_objective
from optishear.objectives.base import Chunk, OutputObjective, Reference, SizeObjective
from optishear.objectives.own_data import OwnDataObjective
from optishear.objectives.rounding import kl_rounding
from optishear.pruning.result import PruneResult
from optishear.recipe.recipe import Recipe
from optishear.recipe.storage import Storage
from optishear.search.evaluator import outcome_of


def written(name):
    kind = OBJECTIVES[name]
    example = kind.example if kind.number is None else kind.number.example
    return name if example is None else f"{name}@{example}"


OUTPUT = [written(n) for n, kind in OBJECTIVES.items() if issubclass(kind, OutputObjective)]
OUTPUT += ["kl_top@1", "kl_top@3"]
DIVERGENCES = [name for name in OUTPUT if name != "perplexity"]
KLS = [name for name in DIVERGENCES if name.startswith("kl")]
HEADS = {
    "linear": {},
    "biased": {"bias": True},
    "scaled": {"scale": 0.3},
    "biased and scaled": {"bias": True, "scale": 0.3},
    "capped": {"softcap": 3.0},
    "capped, biased and scaled": {"softcap": 3.0, "bias": True, "scale": 0.7},
}
VOCAB, WIDTH = 11, 5


def head_of(kind="linear", vocab=VOCAB, width=WIDTH, loud=1.0):
    rest = dict(HEADS[kind])
    generator = torch.Generator().manual_seed(7)
    weight = loud * torch.randn(vocab, width, generator=generator)
    bias = torch.randn(vocab, generator=generator) if rest.pop("bias", False) else None
    return Head(weight, bias, **rest)


def chunk(tokens, seed=0, change=0.3, head=None, ends=True):
    head = head or head_of()
    generator = torch.Generator().manual_seed(seed)
    vocab, width = head.weight.shape
    dense = torch.randn(tokens, width, generator=generator)
    hidden = dense + change * torch.randn(tokens, width, generator=generator)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    if ends:
        targets[-1] = -1
    return Chunk(hidden, Reference(dense, targets, head))


def part(whole, rows):
    before = whole.reference
    return Chunk(
        whole.hidden[rows], Reference(before.hidden[rows], before.targets[rows], before.head)
    )


def value(name, *chunks):
    objective = make_objective(name)
    for each in chunks:
        objective.update(each)
    return objective.value()


def logits64(head, hidden):
    """As the docstring of `Head` says, from the start in fp64."""
    z = hidden.double() @ head.weight.double().T
    z = head.scale * (z if head.bias is None else z + head.bias.double())
    return z if head.softcap is None else head.softcap * (z / head.softcap).tanh()


def both64(of):
    """fp64 log-probabilities of the dense and of the pruned model."""
    head = of.reference.head
    return [logits64(head, h).log_softmax(-1) for h in (of.reference.hidden, of.hidden)]


def kl64(of):
    dense, pruned = both64(of)
    return (dense.exp() * (dense - pruned)).sum(-1).mean().item()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", OUTPUT)
class TestEveryOutputObjective:
    def test_does_not_depend_on_how_the_tokens_are_cut(self, name, kind):
        whole = chunk(9, head=head_of(kind))
        parts = [part(whole, s) for s in (slice(0, 2), slice(2, 3), slice(3, 8), slice(8, 9))]
        assert value(name, *parts) == pytest.approx(value(name, whole), rel=1e-6)

    def test_goes_on_from_a_value_that_was_asked_for(self, name, kind):
        few, more = chunk(4, head=head_of(kind)), chunk(7, seed=1, head=head_of(kind))
        objective = make_objective(name)
        objective.update(few)
        assert objective.value() == objective.value() == value(name, few)
        objective.update(more)
        assert objective.value() == value(name, few, more)
        objective.update(few)
        assert objective.value() == value(name, few, more, few)
        assert value(name, few) == value(name, few)  # what was kept of it is as it was

    def test_is_the_same_for_a_kept_reference_as_for_a_fresh_one(self, name, kind):
        kept = chunk(6, head=head_of(kind)).reference
        for seed in range(3):
            hidden = chunk(6, seed=seed).hidden
            fresh = Reference(kept.hidden, kept.targets, kept.head)
            assert value(name, Chunk(hidden, kept)) == value(name, Chunk(hidden, fresh))

    def test_leaves_what_it_shares_with_the_others_as_it_was(self, name, kind):
        shared = chunk(6, head=head_of(kind))
        alone = {other: value(other, chunk(6, head=head_of(kind))) for other in OUTPUT}
        value(name, shared)
        assert {other: value(other, shared) for other in OUTPUT} == alone

    def test_never_waits_for_the_device_before_its_value(self, name, kind):
        """A meta tensor has no numbers: whatever would fetch one fails."""
        there = chunk(6, head=head_of(kind))
        head = there.reference.head
        bias = None if head.bias is None else head.bias.to("meta")
        meta = Head(head.weight.to("meta"), bias, head.scale, head.softcap)
        before = Reference(
            there.reference.hidden.to("meta"), there.reference.targets.to("meta"), meta
        )
        objective = make_objective(name)
        objective.update(Chunk(there.hidden.to("meta"), before))
        objective.update(Chunk(there.hidden.to("meta"), before))
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            objective.value()

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_a_broken_answer_is_no_finite_number(self, name, kind, broken):
        of = chunk(6, head=head_of(kind))
        of.hidden[2] = broken
        if broken == math.inf and not of.reference.head.linear:
            of.hidden[2, 0] = math.nan  # a soft cap makes a number of infinity
        assert not math.isfinite(value(name, of))

    def test_takes_hidden_states_and_head_in_bf16(self, name, kind):
        exact = chunk(6, head=head_of(kind))
        half, head = torch.bfloat16, exact.reference.head
        bias = None if head.bias is None else head.bias.to(half)
        rounded = Head(head.weight.to(half), bias, head.scale, head.softcap)
        before = Reference(exact.reference.hidden.to(half), exact.reference.targets, rounded)
        got = value(name, Chunk(exact.hidden.to(half), before))
        assert got == pytest.approx(value(name, exact), rel=0.1)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_is_zero_for_the_dense_model_and_positive_elsewhere(name, kind):
    head = head_of(kind)
    assert value(name, chunk(6, change=0.0, head=head)) == 0
    assert value(name, chunk(6, head=head)) > 1e-3


@pytest.mark.parametrize("kind", HEADS)
def test_the_dense_model_has_the_dense_perplexity(kind):
    of = chunk(9, change=0.0, head=head_of(kind))
    dense, _ = both64(of)
    said = dense[range(8), of.reference.targets[:8]]
    assert value("perplexity", of) == pytest.approx(said.mean().neg().exp().item(), rel=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_the_reconstruction_error_is_the_norm_over_the_logits_themselves(kind):
    of = chunk(9, head=head_of(kind))
    pruned, dense = (logits64(of.reference.head, h) for h in (of.hidden, of.reference.hidden))
    assert value("reconstruction", of) == pytest.approx((pruned - dense).norm().item(), rel=1e-5)
    relative = (pruned - dense).norm() / dense.norm()
    assert value("relative_reconstruction", of) == pytest.approx(relative.item(), rel=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_the_centred_reconstruction_error_leaves_out_what_all_logits_of_a_token_share(kind):
    of = chunk(9, head=head_of(kind))
    pruned, dense = (logits64(of.reference.head, h) for h in (of.hidden, of.reference.hidden))
    change = pruned - dense
    rest = change - change.mean(1, keepdim=True)
    assert value("centred_reconstruction", of) == pytest.approx(rest.norm().item(), rel=1e-5)
    assert rest.norm() < 0.99 * change.norm()


def test_a_shift_of_all_logits_is_nothing_to_what_is_centred_and_to_kl_but_is_to_reconstruction():
    plain = head_of(vocab=97, width=24)
    shifting = Head(torch.cat([plain.weight, torch.ones(97, 1)], dim=1))  # the last input: a shift
    hidden = torch.randn(7, 25, generator=torch.Generator().manual_seed(3))
    moved = hidden.clone()
    moved[:, -1] += 50.0
    of = Chunk(moved, Reference(hidden, torch.full((7,), -1), shifting))
    assert value("reconstruction", of) == pytest.approx(50 * (7 * 97) ** 0.5, rel=1e-6)
    assert value("centred_reconstruction", of) < 1e-4 * value("reconstruction", of)
    assert value("kl", of) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_kls_and_perplexity_are_those_of_a_loop_over_tokens(kind):
    of = chunk(9, head=head_of(kind))
    dense, pruned = (p.exp() for p in both64(of))
    nats, top3, said = 0.0, 0.0, 0.0
    for t in range(9):
        terms = [dense[t, v] * (dense[t, v] / pruned[t, v]).log() for v in range(VOCAB)]
        order = sorted(range(VOCAB), key=lambda v: -dense[t, v].item())
        p_rest, q_rest = (sum(p[t, v] for v in order[3:]) for p in (dense, pruned))
        nats += sum(terms)
        top3 += sum(terms[v] for v in order[:3]) + p_rest * (p_rest / q_rest).log()
        if of.reference.targets[t] >= 0:
            said -= pruned[t, of.reference.targets[t]].log()
    assert value("kl", of) == pytest.approx((nats / 9).item(), rel=1e-5)
    assert value("kl_top@3", of) == pytest.approx((top3 / 9).item(), rel=1e-5)
    assert value("perplexity", of) == pytest.approx((said / 8).exp().item(), rel=1e-6)


class TestKL:
    @pytest.mark.parametrize("kind", HEADS)
    @pytest.mark.parametrize(("change", "near"), [(0.001, 1e-6), (0.01, 1e-4), (0.5, 0.2)])
    def test_is_exact_from_tiny_changes_to_large_ones(self, kind, change, near):
        of = chunk(300, change=change, head=head_of(kind, vocab=97, width=24, loud=0.3))
        exact = kl64(of)
        assert near / 30 < exact < near * 30
        assert value("kl", of) == pytest.approx(exact, rel=1e-5, abs=2e-8)

    @pytest.mark.parametrize("kind", ["linear", "biased and scaled"])
    def test_is_exact_where_nothing_is_left_of_the_dense_answers(self, kind):
        of = chunk(60, change=2.0, head=head_of(kind, vocab=97, width=24, loud=3.0))
        exact = kl64(of)
        assert exact > 10
        assert value("kl", of) == pytest.approx(exact, rel=1e-6)

    def test_below_zero_by_rounding_alone_it_is_zero(self):
        for seed in range(20):
            of = chunk(3, seed=seed, change=1e-5, head=head_of(vocab=97, width=24))
            assert value("kl", of) >= 0

    @pytest.mark.parametrize("kind", HEADS)
    @pytest.mark.parametrize(("vocab", "width", "loud"), [(3, 2, 1.0), (97, 24, 0.3), (997, 64, 2)])
    @pytest.mark.parametrize("change", [1e-4, 0.3, 3.0])
    def test_no_token_is_off_by_a_fifth_of_what_rounding_is_granted(
        self, kind, vocab, width, loud, change
    ):
        of = chunk(9, change=change, head=head_of(kind, vocab, width, loud))
        for token in range(9):
            one = part(of, slice(token, token + 1))
            assert abs(value("kl", one) - kl64(one)) < 0.2 * kl_rounding(one).item()


class TestAMixedUpReference:
    """Dense answers of other tokens than the dense hidden states: no divergence then."""

    def mixed_up(self, kind, far=1.0):
        of = chunk(40, change=1e-3, head=head_of(kind, vocab=97, width=24))
        value("kl", of)  # makes what is kept of the dense answers
        other = chunk(40, seed=1, head=of.reference.head).reference.hidden
        of.reference.hidden.lerp_(other, far)  # a buffer that was used twice
        of.hidden.lerp_(other, far)
        return Chunk(of.hidden, of.reference)

    @pytest.mark.parametrize("kind", HEADS)
    @pytest.mark.parametrize("far", [1.0, 0.01])
    def test_is_refused_and_not_the_best_there_is(self, kind, far):
        with pytest.raises(NumericalError, match=r"KL.*cannot be negative.*another model's"):
            value("kl", self.mixed_up(kind, far))

    def test_is_refused_though_its_other_tokens_make_the_mean_positive(self):
        fine = chunk(40, change=3.0, head=head_of(vocab=97, width=24))
        assert value("kl", fine) > 1
        with pytest.raises(NumericalError, match="cannot be negative"):
            value("kl", fine, self.mixed_up("linear"))

    def test_leaves_a_recipe_that_failed_with_the_reason(self):
        of = self.mixed_up("linear")
        outcome = outcome_of(
            lambda _recipe, _rung: {"kl": value("kl", of)},
            Recipe.of({"name": "wanda"}, {}, "row"),
            40,
        )
        assert outcome["values"] is None
        assert "cannot be negative" in outcome["reason"]

    def test_leaves_no_bucket_of_negative_probability(self):
        of = self.mixed_up("linear")
        of.normaliser.mass.mul_(0.5)  # of other logits
        assert math.isnan(value("kl_top@3", of))


@pytest.mark.parametrize("name", ["reconstruction", "centred_reconstruction"])
def test_a_squared_norm_far_below_zero_is_refused(name):
    of = chunk(6)
    gram = of.reference.head.gram, of.reference.head.centred_gram
    for form in gram:
        form.neg_()
    with pytest.raises(NumericalError, match="squared reconstruction error cannot be negative"):
        value(name, of)


def test_nothing_is_relative_to_logits_that_are_all_zero():
    head = Head(torch.zeros(VOCAB, WIDTH))
    with pytest.raises(NumericalError, match="squared norm 0"):
        value("relative_reconstruction", chunk(6, head=head))


class TestKLTop:
    @pytest.mark.parametrize("kind", HEADS)
    def test_grows_with_its_buckets_up_to_the_whole_kl(self, kind):
        of = chunk(40, change=0.7, head=head_of(kind))
        values = [value(f"kl_top@{top}", of) for top in range(1, VOCAB)]
        assert values == sorted(values)
        assert 0 < values[0] < 0.99 * values[-1]
        whole = pytest.approx(value("kl", of), rel=1e-5)
        for top in (VOCAB - 1, VOCAB, VOCAB + 1, 10**6):
            assert value(f"kl_top@{top}", of) == whole

    @pytest.mark.parametrize(
        ("before", "after", "within"),
        [(3.0, 20.0, 1e-6), (30.0, 3.0, 1e-6), (12.0, 16.0, 1e-6), (3.0, 30.0, 1e-4)],
    )
    def test_tells_a_nearly_certain_answer_from_a_certain_one(self, before, after, within):
        """Two likely tokens and one of probability about e^-before and e^-after: alone in the
        bucket of the rest, so nothing of the KL is lost but by rounding."""
        head = Head(torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]))
        second = torch.linspace(0.1, 0.9, 7)
        dense, pruned = (torch.stack([second, torch.full((7,), x)], dim=1) for x in (before, after))
        of = Chunk(pruned, Reference(dense, torch.zeros(7, dtype=torch.long), head))
        assert value("kl_top@2", of) == pytest.approx(kl64(of), rel=within)

    def test_stays_below_the_kl_though_the_rest_has_no_probability_left(self):
        head = Head(torch.tensor([[0.0], [-1.0]]))
        of = Chunk(torch.tensor([[300.0]]), Reference(torch.ones(1, 1), torch.tensor([0]), head))
        assert 5 < value("kl_top@1", of) < value("kl", of) == pytest.approx(kl64(of), rel=1e-6)

    def test_sees_the_rest_of_a_peaked_answer_in_a_large_vocabulary(self):
        head = head_of(vocab=3001, width=24, loud=4.0)
        of = chunk(200, change=0.5, head=head)
        dense, pruned = both64(of)
        top = dense.topk(5).indices
        others = torch.ones_like(dense, dtype=torch.bool).scatter(1, top, False)
        rest = [p.masked_fill(~others, -math.inf).logsumexp(-1) for p in (dense, pruned)]
        exact = rest[0].exp() * (rest[0] - rest[1])
        for p, q in zip(dense.gather(1, top).T, pruned.gather(1, top).T):
            exact = exact + p.exp() * (p - q)
        assert rest[1].exp().min() < 1e-6  # fp32 has lost it
        assert value("kl_top@5", of) == pytest.approx(exact.mean().item(), rel=1e-5)


class TestWhatACandidateCosts:
    @pytest.fixture
    def products(self, monkeypatch):
        """Each product with the output head, by the hidden states that it was asked for."""
        made, plain = [], Head.logits

        def logits(self, hidden):
            made.append(hidden)
            return plain(self, hidden)

        monkeypatch.setattr(Head, "logits", logits)
        return made

    def measure(self, names, hidden, reference):
        of = Chunk(hidden, reference)
        for name in names:
            value(name, of)

    @pytest.mark.parametrize("kind", HEADS)
    def test_one_head_product_for_all_objectives_and_a_dense_one_under_a_soft_cap(
        self, products, kind
    ):
        of = chunk(6, head=head_of(kind))
        self.measure(OUTPUT, of.hidden, of.reference)
        products.clear()
        self.measure(OUTPUT, of.hidden, of.reference)
        dense = [] if of.reference.head.linear else [of.reference.hidden]
        assert sorted(map(id, products)) == sorted(map(id, [of.hidden, *dense]))

    @pytest.mark.parametrize("name", ["perplexity", "kl_top@3"])
    def test_no_dense_logits_again_for_what_does_not_need_them(self, products, name):
        of = chunk(6, head=head_of("capped"))
        self.measure([name], of.hidden, of.reference)
        products.clear()
        self.measure([name], of.hidden, of.reference)
        assert list(map(id, products)) == [id(of.hidden)]

    def test_no_logit_for_the_reconstruction_error_of_a_linear_head(self, products):
        of = chunk(6)
        norms = ["reconstruction", "centred_reconstruction", "relative_reconstruction"]
        self.measure(norms, of.hidden, of.reference)
        assert not products

    @pytest.mark.parametrize("kind", ["linear", "biased", "capped"])
    def test_no_tensor_over_the_vocabulary_is_kept(self, kind):
        of = chunk(6, head=head_of(kind, vocab=200))
        self.measure(["kl", "kl_top@3", *OUTPUT], of.hidden, of.reference)

        def kept(thing):
            if isinstance(thing, torch.Tensor):
                return [] if thing is of.reference.head.weight else [thing]
            inside = thing.values() if isinstance(thing, dict) else getattr(thing, "__dict__", {})
            inside = inside.values() if isinstance(inside, dict) else inside
            return [tensor for each in inside for tensor in kept(each)]

        sizes = [
            t.numel() for name, x in vars(of.reference).items() if name != "head" for t in kept(x)
        ]
        assert sizes
        assert max(sizes) <= 6 * 65  # `kl_top@64` is the widest


class TestTheLogSumExp:
    @pytest.mark.parametrize("vocab", [3, 40_000, 300_000])
    def test_is_that_of_fp64_however_large_the_logits(self, vocab):
        """A vocabulary beyond the cache's share of elements is walked over row by row."""
        generator = torch.Generator().manual_seed(0)
        head = Head(torch.randn(vocab, 1, generator=generator))
        hidden = torch.tensor([[0.0], [1.0], [-7.0], [100.0], [3e4], [1e-3], [2.0], [5.0]])
        of = Chunk(hidden, Reference(hidden, torch.full((8,), -1), head))
        torch.testing.assert_close(of.lse, of.logits.double().logsumexp(-1), rtol=0, atol=3e-8)


def test_pruned_and_dense_states_of_other_tokens_are_refused():
    of = chunk(6)
    with pytest.raises(ValueError, match=r"\(1, 5\) .* \(6, 5\)"):
        Chunk(of.hidden[:1], of.reference)


def test_size_objectives_read_what_the_recipe_left():
    layout = small_layout(blocks=1)
    result = PruneResult(layout, {"blocks.0.attn.q": 12, "blocks.0.mlp.down": 30}, Storage(100, 2))
    assert make_objective("sparsity").value(result) == pytest.approx(1 - 42 / 108)
    assert make_objective("sparsity_gap@0.5").value(result) == pytest.approx(1 - 42 / 108 - 0.5)
    # 12 and 30 non-zeros of two bytes, 48 and 60 mask bits, 100 other weights
    assert make_objective("bytes").value(result) == 24 + 48 // 8 + 60 + 60 // 8 + 200


def test_a_dense_layer_is_never_stored_with_a_mask():
    layout = small_layout(blocks=1)
    full = PruneResult(layout, layout.sizes, Storage(0, 2))
    assert make_objective("bytes").value(full) == 2 * layout.total


def test_every_objective_says_what_it_is():
    for name, kind in OBJECTIVES.items():
        assert kind.unit, name
        assert kind.description, name
        assert issubclass(kind, OutputObjective | SizeObjective | OwnDataObjective)
        assert isinstance(make_objective(written(name)), kind)
        if kind.number is not None or kind.example is not None:
            assert written(name) in kind.description


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kll", "Did you mean 'kl'"),
        ("kl@0.5", "takes no number"),
        ("kl@", "takes no number"),
        ("zero_shot_error", "write it with the name of its data, zero_shot_error@copa"),
        ("sparsity_gap", "write it with a target, sparsity_gap@0.5"),
        ("sparsity_gap@60", "a target must lie in [0, 1)"),
        ("sparsity_gap@nan", "must lie in"),
        ("kl_top", "write it with a number of tokens, kl_top@64"),
        ("kl_top@", "write it with a number of tokens"),
        ("kl_top@6.5", "write it with a number of tokens"),
        ("kl_top@0", "a number of tokens must lie in [1, inf)"),
        ("kl_top@-3", "must lie in"),
    ],
)
def test_an_objective_that_cannot_be_is_a_sentence(text, sentence):
    with pytest.raises(ConfigError) as raised:
        make_objective(text)
    assert sentence in str(raised.value)
