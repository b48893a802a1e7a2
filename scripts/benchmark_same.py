"""What benchmark.py asserts of training before it takes times: both sides train the same network.

Loss and every gradient of one batch, from the same weights. Its texts are of one length: where there is padding the
plain loops read it as text, and differ. Gradients are compared in float64: in float32 rounding decides which of two
states that are nearly alike is the larger, and the gradient of a maximum goes to that one alone.
"""

from collections.abc import Iterator
from typing import Any

ROUNDED = 0.02  # how far the loss in bf16, of numbers with eight bits, may be from that in float32


def check_same_network(texts: Any, plain: Any, model: Any, batch_size: int, bf16: bool = False) -> None:
    """Compare a plain network with ours, on copies.

    Args:
        texts: `benchmark_loops.Texts`, of which a batch is taken.
        plain: Of `benchmark_loops.make_plain`.
        model: `RnnForSequenceClassification` of the same sizes; the weights of `plain` are copied into a copy of it.
        batch_size: Texts in the batch, at most.
        bf16: Let ours compute as `--bf16` does; then only the losses are compared.

    Raises:
        AssertionError: A loss or a gradient that differs.
    """
    import copy

    import torch

    plain, model = copy.deepcopy(plain).train(), copy.deepcopy(model).train()
    pairs = list(pair_weights(plain, model))
    assert len(pairs) == len(list(plain.parameters())) == len(list(model.parameters())), "a weight has no partner"
    with torch.no_grad():
        for name, theirs, ours in pairs:
            assert theirs.shape == ours.shape, f"{name}: {tuple(theirs.shape)} and {tuple(ours.shape)}"
            ours.copy_(theirs)
    ids, labels = texts.pad(texts.of_one_length(batch_size))

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        return found.float(), torch.nn.functional.cross_entropy(plain(ids), labels).float()

    check_close("the loss", *losses(), atol=ROUNDED if bf16 else 1e-5)
    if bf16:
        return
    plain.double()
    model.double()
    for loss in losses():
        loss.backward()
    for name, theirs, ours in pairs:
        expected = theirs.grad.to_dense() if theirs.grad.is_sparse else theirs.grad
        check_close(f"the gradient of {name}", ours.grad, expected, atol=1e-9, rtol=1e-6)


def check_close(what: str, found: Any, expected: Any, atol: float, rtol: float = 0.0) -> None:
    """`torch.testing.assert_close`, whose message begins with what was compared."""
    import torch

    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, msg=lambda text: f"{what}: {text}")


def pair_weights(plain: Any, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each weight of a plain network, the weight, and the one of our model that has its part."""
    yield "embedding.weight", plain.embedding.weight, model.rnn.embedding.weight
    for number, layer in enumerate(model.rnn.layers):
        for direction, suffix in zip(layer.directions, ("", "_reverse"), strict=False):
            for name, ours in direction.cell.named_parameters():
                theirs = name.replace("_l0", f"_l{number}") + suffix
                yield f"rnn.{theirs}", getattr(plain.rnn, theirs), ours
    for name, ours in model.classifier.named_parameters():
        yield f"linear.{name}", getattr(plain.linear, name), ours
