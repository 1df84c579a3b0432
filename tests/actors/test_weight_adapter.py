"""The adapter alone is pushed: vLLM with it is transformers with PEFT, version after version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from boxmed_ray.actors.rollout_io import EnginePrompt, OutOfServiceError
from boxmed_ray.actors.weight_fleet import LocalClient, PushError
from boxmed_ray.model.policy import adapter_config, add_lora, load_policy
from tests.actors.conftest import Served
from tests.actors.pushing import TEXT_ONLY, Pusher, assert_same_policy

pytestmark = [pytest.mark.vllm, pytest.mark.ray]


class Case:
    """An engine that serves adapters, and a learner with LoRA in it."""

    def __init__(self, served: Served) -> None:
        from boxmed_ray.actors.weight_source import AdapterWeights
        from boxmed_ray.actors.weights import LoraInitInfo

        self.served, backbone = served, served.learner
        self.backbone = backbone
        served.learner = load_policy(served.folder)
        config = adapter_config(add_lora(served.learner, rank=4, alpha=16))
        source = AdapterWeights(served.learner, bucket_bytes=1 << 12)
        self.push = Pusher(source, [LocalClient(served.engine)], LoraInitInfo(rank=0, config=config, checked=True))

    def move(self, seed: int) -> None:
        """Draw every LoRA matrix anew."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.served.learner.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def case(adapted: Served, ray_cluster: None) -> Iterator[Case]:
    made = Case(adapted)
    yield made
    adapted.learner = made.backbone
    adapted.engine._pushed.close()
    adapted.engine._pushed = None


def pushed_folders(case: Case) -> list[Path]:
    request = case.served.engine._pushed.request
    return [] if request is None else [Path(request.lora_path)]


def test_after_every_push_vllm_with_the_adapter_is_the_learner(case: Case) -> None:
    engine, seen = case.served.engine, []
    assert_same_policy(case.served)  # before the first push B is 0: the backbone itself
    for version in (1, 2, 3, 4):
        case.move(seed=version)
        report = case.push.send_weights(version)
        assert report is not None
        assert engine.weight_version == version
        for _ in range(2):  # the second time from what the first left in the caches
            assert_same_policy(case.served)
        seen += pushed_folders(case)
        assert len(engine._llm.llm_engine.list_loras()) == 1
    assert [folder.exists() for folder in seen] == [False, False, False, True]


def test_a_worker_that_is_connected_anew_takes_no_adapter_for_one_it_has(case: Case) -> None:
    case.move(seed=6)
    case.push.send_weights(6)
    case.served.engine._pushed.close()
    case.served.engine._pushed = None
    case.served.engine.weight_phase("connect", {"backend": "lora"})
    case.move(seed=7)
    case.push.send_weights(7)
    assert_same_policy(case.served)


def test_only_the_adapter_travels(case: Case) -> None:
    sent = case.push.engine.send_weights(5)
    lora = sum(p.numel() for n, p in case.served.learner.named_parameters() if ".lora_" in n)
    assert sent.nbytes == 4 * lora < 0.3 * 4 * sum(p.numel() for p in case.served.learner.parameters())


def test_a_damaged_adapter_is_not_applied_and_a_whole_one_brings_the_engine_back(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxmed_ray.actors import weight_store

    case.move(seed=10)
    with monkeypatch.context() as patch:
        patch.setattr(weight_store, "as_bytes", lambda tensor: tensor.numpy().reshape(-1).view("uint8") ^ 1)
        with pytest.raises(PushError, match="in phase update: WeightFileError: adapter version 10 is damaged"):
            case.push.send_weights(10)
    with pytest.raises(OutOfServiceError, match="damaged"):
        case.served.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    case.push.send_weights(11)
    assert_same_policy(case.served)


def test_an_adapter_that_vllm_refuses_leaves_the_engine_out_of_service(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(case.push.engine.info, "config", {**case.push.engine.info.config, "r": 64})
        with pytest.raises(PushError, match=r"in phase finish: .*rank"):
            case.push.send_weights(20)
    with pytest.raises(OutOfServiceError, match="rank"):
        case.served.engine.generate([EnginePrompt(TEXT_ONLY)], max_new_tokens=2)
    case.push.send_weights(21)
    assert_same_policy(case.served)


def test_an_engine_without_lora_takes_no_adapter(tied: Served) -> None:
    from boxmed_ray.actors.weight_source import AdapterWeights
    from boxmed_ray.actors.weights import LoraInitInfo

    model = load_policy(tied.folder)
    add_lora(model, rank=4, alpha=8)
    with pytest.raises(PushError, match=r"in phase connect: ValueError: .*started without LoRA"):
        Pusher(AdapterWeights(model), [LocalClient(tied.engine)], LoraInitInfo(rank=0))


def test_the_names_and_tensors_are_those_that_peft_itself_saves(tied_folder: Path) -> None:
    from peft import get_peft_model_state_dict

    from boxmed_ray.actors.weight_source import AdapterWeights

    model = load_policy(tied_folder)
    adapted = add_lora(model, rank=4, alpha=8)
    expected: dict[str, Any] = get_peft_model_state_dict(adapted)
    found = dict(AdapterWeights(model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("language_model", "vision_tower"), "not to vision_tower"),
        (("projector",), "not to projector"),
        ((), "no LoRA"),
    ],
)
def test_lora_where_vllm_applies_none_is_refused(tied_folder: Path, parts: Any, message: str) -> None:
    from boxmed_ray.actors.weight_source import AdapterWeights

    model = load_policy(tied_folder)
    if parts:
        add_lora(model, rank=4, alpha=8, parts=parts)
    with pytest.raises(ValueError, match=message):
        AdapterWeights(model)
