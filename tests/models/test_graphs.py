"""Forward passes replayed by shape; the CUDA side needs a device, and is tested only on one."""

import pytest
import torch
from tiny_models import TINY, tokens

from optishear.errors import ConfigError
from optishear.models.graphs import GraphedForward
from optishear.models.head import hidden_states


class Recorder:
    """Stands in for a CUDA graph: one place for the answer, filled anew by each replay."""

    def __init__(self, spoil=lambda answer: None):
        self.captures, self.spoil = 0, spoil

    def __call__(self, run):
        self.captures += 1
        answer = run().clone()

        def replay():
            answer.copy_(run())
            self.spoil(answer)
            return answer

        return replay


BATCHES = [
    tokens(2, 12, seed=0),
    tokens(2, 12, seed=1),
    tokens(1, 12, seed=2),
    tokens(2, 6, seed=3),
]


@torch.no_grad()
def test_each_shape_is_captured_once_and_each_batch_gets_its_own_answer():
    model, recorder = TINY["llama"](), Recorder()
    forward = GraphedForward(model, BATCHES, recorder)
    assert recorder.captures == 3
    for batch in (0, 1, 2, 3, 0):
        want = hidden_states(model, BATCHES[batch])
        assert torch.equal(forward.hidden_states(batch), want)


@torch.no_grad()
def test_weights_written_in_place_are_those_that_count():
    model = TINY["llama"]()
    forward = GraphedForward(model, BATCHES[:1], Recorder())
    before = forward.hidden_states(0).clone()
    model.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(0.5)
    after = forward.hidden_states(0)
    assert not torch.equal(after, before)
    assert torch.equal(after, hidden_states(model, BATCHES[0]))


def test_a_graph_that_answers_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"off by .* Set cuda_graphs to false"):
        GraphedForward(TINY["llama"](), BATCHES, Recorder(lambda answer: answer.mul_(1.001)))


def test_a_graph_that_minds_no_tokens_is_refused():
    def frozen(run):
        answer = run().clone()
        return lambda: answer

    with pytest.raises(ConfigError, match="answers other tokens"):
        GraphedForward(TINY["llama"](), BATCHES, frozen)


def test_what_cannot_be_captured_is_refused_in_a_sentence():
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(ConfigError, match=r"cannot be captured \(operation .* capturing\)\. Set"):
        GraphedForward(TINY["llama"](), BATCHES, refuse)


def test_out_of_memory_is_no_fault_of_the_model():
    def full(run):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        GraphedForward(TINY["llama"](), BATCHES, full)


def test_graphs_need_a_cuda_device():
    with pytest.raises(ConfigError, match="the model is on 'cpu'"):
        GraphedForward(TINY["llama"](), BATCHES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@torch.no_grad()
def test_a_cuda_graph_follows_tokens_and_weights():
    model = TINY["llama"]().cuda()
    batches = [batch.cuda() for batch in BATCHES]
    forward = GraphedForward(model, batches)
    model.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(0.5)
    for batch in (1, 2, 3, 0):
        want = hidden_states(model, batches[batch])
        torch.testing.assert_close(forward.hidden_states(batch), want)
