"""The digest changes with any bit and with nothing else."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from boxmed_ray.evaluate.digest import backbone_digest, parameters_digest


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False))


def test_same_weights_same_digest_other_weights_another():
    assert backbone_digest(network()) == backbone_digest(network())
    assert backbone_digest(network()) != backbone_digest(network(1))


def test_one_bit_changes_it():
    model = network()
    before = backbone_digest(model)
    with torch.no_grad():
        model[0].weight.view(torch.int32)[0, 0] ^= 1
    assert backbone_digest(model) != before


def test_an_adapter_around_the_backbone_does_not_change_it():
    before = backbone_digest(network())
    wrapped = get_peft_model(network(), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    assert backbone_digest(wrapped) == before


def test_order_does_not_matter_but_names_types_and_shapes_do():
    a, b = torch.zeros(4), torch.ones(2, 2)
    first = parameters_digest([("a", a), ("b", b)])
    assert first == parameters_digest([("b", b), ("a", a)])
    assert first != parameters_digest([("b", a), ("a", b)])
    assert first != parameters_digest([("a", a.reshape(2, 2)), ("b", b)])
    assert first != parameters_digest([("a", a.int()), ("b", b)])


def test_bfloat16_scalars_and_empty_tensors_can_be_hashed():
    parameters_digest([("a", torch.zeros((), dtype=torch.bfloat16)), ("b", torch.zeros(0))])
