import pytest
import torch
import torch.nn.functional as F

from tinylm.train.loss import (
    IGNORE,
    Head,
    LogitRule,
    TeacherTargets,
    chunked_loss,
    loss_and_gradient,
)

N, D, V = 37, 12, 50


def case(seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(V, D))
    targets = torch.randint(0, V, (N,))
    targets[5] = IGNORE
    return hidden, weight, targets


def gradients(loss, *inputs):
    return torch.autograd.grad(loss * 3.0, inputs)


def assert_same(ours, theirs, inputs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(gradients(ours, *inputs), gradients(theirs, *inputs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_next_token_loss_and_gradients_equal_plain_cross_entropy(chunk, scale):
    hidden, weight, targets = case()
    loss, nats = chunked_loss(hidden, Head(weight, scale), targets, chunk=chunk)
    logits = hidden @ weight.T * scale
    assert_same(loss, F.cross_entropy(logits, targets), (hidden, weight))
    torch.testing.assert_close(nats, F.cross_entropy(logits, targets, reduction="none").detach())
    assert nats[5] == 0


@pytest.mark.parametrize("weight_of_teacher", [0.0, 0.3])
def test_capped_logits(weight_of_teacher):
    """Gemma 2: cap * tanh(logits / cap), the teacher's too."""
    hidden, weight, targets = case()
    capped = [
        2.0 * torch.tanh(0.5 * (x @ w.T) / 2.0)
        for x, w in ((hidden, weight), (hidden.detach() + 1, weight.detach()))
    ]
    teacher = TeacherTargets(0.3, hidden=hidden.detach() + 1, head=Head(weight.detach(), 0.5, 2.0))
    loss, _ = chunked_loss(
        hidden,
        Head(weight, 0.5, 2.0),
        targets,
        teacher=teacher if weight_of_teacher else None,
        chunk=16,
    )
    student, wanted = (torch.log_softmax(logits, 1) for logits in capped)
    keep = targets != IGNORE
    divergence = F.kl_div(student, wanted, log_target=True, reduction="none").sum(1)[keep].mean()
    plain = F.cross_entropy(capped[0], targets)
    assert_same(
        loss, (1 - weight_of_teacher) * plain + weight_of_teacher * divergence, (hidden, weight)
    )


def test_z_loss():
    hidden, weight, targets = case()
    loss, _ = chunked_loss(hidden, Head(weight), targets, z_loss=0.01, chunk=10)
    logits = hidden @ weight.T
    z = (logits.logsumexp(1) ** 2)[targets != IGNORE].mean()
    assert_same(loss, F.cross_entropy(logits, targets) + 0.01 * z, (hidden, weight))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_live_teacher_is_kullback_leibler(temperature):
    hidden, weight, targets = case()
    teacher_hidden, teacher_weight = torch.randn(N, 20), torch.nn.Parameter(torch.randn(V, 20))
    teacher = TeacherTargets(0.3, temperature, hidden=teacher_hidden, head=Head(teacher_weight))
    loss, nats = chunked_loss(hidden, Head(weight), targets, teacher=teacher, chunk=16)
    logits, keep = hidden @ weight.T, targets != IGNORE
    wanted = torch.log_softmax(teacher_hidden @ teacher_weight.detach().T / temperature, 1)
    student = torch.log_softmax(logits / temperature, 1)
    divergence = (
        F.kl_div(student, wanted, log_target=True, reduction="none").sum(1)[keep].mean()
        * temperature**2
    )
    assert_same(loss, 0.7 * F.cross_entropy(logits, targets) + 0.3 * divergence, (hidden, weight))
    torch.testing.assert_close(nats, F.cross_entropy(logits, targets, reduction="none").detach())


def test_stored_teacher_is_divergence_over_k_tokens_and_the_rest():
    hidden, weight, targets = case()
    wanted = torch.log_softmax(2 * torch.randn(N, V), 1)
    top, ids = wanted.topk(7, dim=1)
    loss, _ = chunked_loss(
        hidden,
        Head(weight),
        targets,
        teacher=TeacherTargets(0.4, top_log_probs=top, top_ids=ids),
        chunk=16,
    )
    logits, keep = hidden @ weight.T, targets != IGNORE
    student = torch.log_softmax(logits, 1)
    chosen = student.gather(1, ids)
    rest, student_rest = 1 - top.exp().sum(1), 1 - chosen.exp().sum(1)
    divergence = (top.exp() * (top - chosen)).sum(1) + rest * (rest.log() - student_rest.log())
    assert_same(
        loss,
        0.6 * F.cross_entropy(logits, targets) + 0.4 * divergence[keep].mean(),
        (hidden, weight),
    )


def test_stored_teacher_with_every_token_is_the_live_one():
    hidden, weight, targets = case()
    teacher_logits = torch.randn(N, V)
    top, ids = torch.log_softmax(teacher_logits, 1).topk(V, dim=1)
    stored, _ = chunked_loss(
        hidden, Head(weight), targets, teacher=TeacherTargets(0.5, top_log_probs=top, top_ids=ids)
    )
    live = TeacherTargets(0.5, hidden=teacher_logits, head=Head(torch.nn.Parameter(torch.eye(V))))
    assert stored.item() == pytest.approx(
        chunked_loss(hidden, Head(weight), targets, teacher=live)[0].item(), rel=1e-4
    )


def test_bfloat16_gradients_are_close_to_float32():
    hidden, weight, targets = case()
    loss, _ = chunked_loss(hidden, Head(weight), targets)
    exact = gradients(loss, hidden, weight)
    low_hidden, low_weight = (t.detach().bfloat16().requires_grad_() for t in (hidden, weight))
    loss, _ = chunked_loss(low_hidden, Head(low_weight), targets)
    for low, high in zip(gradients(loss, low_hidden, low_weight), exact):
        assert low.dtype == torch.bfloat16
        assert (low.float() - high).norm() < 0.03 * high.norm()


def test_without_gradients_only_the_losses_are_made():
    hidden, weight, targets = case()
    with torch.no_grad():
        loss, nats = chunked_loss(hidden, Head(weight), targets)
    assert not loss.requires_grad and nats.shape == (N,)


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_a_sure_and_right_token_has_its_small_gradient(cap, z_loss):
    """p - 1 near p = 1, with logits in bfloat16: subtracted there it would be mostly rounding."""
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(8)
    logits[torch.arange(8), targets] = 12.0
    share = torch.full((8,), 1 / 8)
    gradient, _, _ = loss_and_gradient(logits, targets, share, LogitRule(1.0, cap, z_loss))
    exact = logits.double().requires_grad_()
    scores = cap * torch.tanh(exact / cap) if cap else exact
    log_z = scores.logsumexp(1)
    (log_z - scores[torch.arange(8), targets] + z_loss * log_z**2).mean().backward()
    torch.testing.assert_close(gradient.double(), exact.grad, rtol=2**-8, atol=1e-12)
