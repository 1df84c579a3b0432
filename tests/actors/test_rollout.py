"""What the engine samples: exact log-probabilities, no placeholders, the same under a seed, images encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxmed_ray.actors.rollout_io import EngineOptions, EnginePrompt
from boxmed_ray.actors.types import Prompt
from boxmed_ray.actors.weight_fleet import LocalClient
from boxmed_ray.data.prompts import Task
from boxmed_ray.model.policy import add_lora
from tests.actors.conftest import IMAGE_SIZE, Served, random_image
from tests.actors.pushing import through_shm

pytestmark = pytest.mark.vllm
IMAGE = random_image(3)


@pytest.fixture
def with_head(untied: Served) -> Iterator[Callable[[dict[int, torch.Tensor]], Served]]:
    """Replace rows of the output head, in learner and engine; they are put back afterwards."""
    from boxmed_ray.actors.weight_source import ModuleWeights

    head = untied.learner.lm_head.weight
    saved = head.detach().clone()
    push = through_shm(ModuleWeights(untied.learner), [LocalClient(untied.engine)])

    def edit(rows: dict[int, torch.Tensor]) -> Served:
        with torch.no_grad():
            for token, row in rows.items():
                head[token] = row
        push.send_weights(untied.engine.weight_version + 1)
        return untied

    yield edit
    edit(dict(enumerate(saved)))


def test_placeholders_are_never_sampled_and_the_rest_is_renormalised(
    untied: Served, with_head: Callable[[dict[int, torch.Tensor]], Served]
) -> None:
    # Of two opposite large rows one has a huge logit whatever the hidden state is.
    direction = 20 * torch.randn(untied.learner.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    served = with_head({token: direction * (-1) ** index for index, token in enumerate(untied.banned)})
    text, prompts = served.text(), [EnginePrompt(served.text(), IMAGE)]
    (sampled,) = served.engine.generate(prompts, n=24, temperature=1.3, max_new_tokens=16, seed=1)
    ((greedy,),) = served.engine.generate(prompts, greedy=True, max_new_tokens=16)
    wanted = served.learner_logits(text, IMAGE, sampled[0].token_ids, ban=False).softmax(-1)
    assert wanted[:, served.banned].sum(-1).median() > 0.99  # what the policy would do
    tokens = {token for output in [*sampled, greedy] for token in output.token_ids}
    assert len(tokens) > 50
    assert not tokens & set(served.banned)
    for output in sampled[:4]:
        expected = served.learner_logprobs(text, IMAGE, output.token_ids, temperature=1.3)
        assert torch.tensor(output.logprobs) == pytest.approx(expected, abs=1e-4)
    assert torch.tensor(greedy.logprobs) == pytest.approx(
        served.learner_logprobs(text, IMAGE, greedy.token_ids), abs=1e-4
    )


def test_samples_follow_the_probabilities_the_learner_computes(tied: Served) -> None:
    text = tied.text()
    (outputs,) = tied.engine.generate([EnginePrompt(text, IMAGE)], n=2000, max_new_tokens=1, seed=2)
    counts = torch.zeros(tied.learner.config.text_config.vocab_size)
    for output in outputs:
        counts[output.token_ids[0]] += 1
    expected = tied.learner_logits(text, IMAGE, [0]).softmax(-1)[0] * 2000
    likely = expected > 5
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum().item()
    freedom = int(likely.sum())
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_a_seed_fixes_the_samples_and_another_one_changes_them(tied: Served) -> None:
    prompts = [EnginePrompt(tied.text(), random_image(seed)) for seed in range(3)]
    first = tied.engine.generate(prompts, n=4, max_new_tokens=8, seed=1)
    tied.engine.generate(prompts[:1], n=2, max_new_tokens=3)  # draws in between
    assert tied.engine.generate(prompts, n=4, max_new_tokens=8, seed=1) == first
    # More than one step can take: who is in the first one must not depend on what is cached.
    many = [EnginePrompt(tied.text("lung " * 30), random_image(seed)) for seed in range(40)]
    cold = tied.engine.generate(many, n=8, max_new_tokens=3, seed=1)
    assert tied.engine.generate(many, n=8, max_new_tokens=3, seed=1) == cold
    assert tied.engine.generate(prompts, n=4, max_new_tokens=8, seed=2) != first
    assert len({tuple(output.token_ids) for output in first[0]}) == 4


def test_a_seed_leaves_the_process_generator_alone(tied: Served) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    tied.engine.generate([EnginePrompt(tied.text(), IMAGE)], n=2, max_new_tokens=3, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_each_image_is_encoded_once_for_all_samples_of_its_group(tied: Served) -> None:
    patches: list[int] = []
    visual = tied.engine._llm.llm_engine.model_executor.driver_worker.worker.get_model().visual
    hook = visual.register_forward_pre_hook(lambda module, arguments: patches.append(len(arguments[0])))
    images = [random_image(seed) for seed in (51, 52, 53)]
    tied.engine.generate([EnginePrompt(tied.text(), image) for image in images], n=12, max_new_tokens=4)
    hook.remove()
    one = len(tied.encoder.encode("one", images[0], tied.text()).pixel_values)
    assert sum(patches) == 3 * one


def test_a_finished_response_keeps_its_end_token_and_shows_stray_special_tokens(
    untied: Served, with_head: Callable[[dict[int, torch.Tensor]], Served]
) -> None:
    tokenizer = untied.processor.tokenizer
    stray, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    direction = torch.randn(untied.learner.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(1))
    with_head({stray: direction})
    direction *= 20 * untied.learner_logits(untied.text(), IMAGE, [0])[0, stray].sign()
    served = with_head({stray: direction, end: direction})  # the two share the probability
    outputs = [
        output
        for group in served.engine.generate(
            [EnginePrompt(served.text(phrase), IMAGE) for phrase in "abcdefgh"], n=2, max_new_tokens=6, seed=3
        )
        for output in group
    ]
    finished = [output for output in outputs if output.finish_reason == "stop"]
    cut = [output for output in outputs if output.finish_reason == "length"]
    assert finished
    for output in finished:
        assert output.token_ids[-1] == end
        assert "<|im_end|>" not in output.text
        assert len(output.logprobs) == len(output.token_ids)
    for output in cut:
        assert len(output.token_ids) == 6
    assert any("<|im_start|>" in output.text for output in outputs)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda text: text.replace("<|image_pad|>", "<|image_pad|>" * 4), {}, "prompt 0 has 4 of .* not expanded"),
        (lambda text: text.replace("<|image_pad|>", ""), {}, "prompt 0 has 0 of .* one image"),
        (lambda text: text + "lung " * 200, {}, r"prompt 0 has \d+ tokens .* the engine holds 192"),
        (lambda text: text, {"max_new_tokens": 400}, "may get 400 more"),
        (lambda text: text, {"greedy": True, "n": 2}, "n = 2 with greedy"),
        (lambda text: text, {"temperature": 0.0}, r"temperature = 0\.0"),
        (lambda text: text, {"lora_path": "adapter"}, "started without LoRA"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    tied: Served, change: Callable[[str], str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tied.engine.generate([EnginePrompt(change(tied.text()), IMAGE)], **options)
    assert len(tied.engine.generate([EnginePrompt(tied.text(), IMAGE)], max_new_tokens=2)) == 1


def test_the_actor_turns_prompts_into_groups_whoever_does_them(
    tied: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxmed_ray.actors import vllm_engine
    from boxmed_ray.actors.rollout import RolloutActor

    monkeypatch.setattr(vllm_engine, "RolloutEngine", lambda folder, options: tied.engine)
    prompts = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        random_image(80 + index).resize((90, 70)).save(path)
        prompts.append(Prompt(f"p{index}", Task.GROUND, "opacity", f"s{index}", str(path), 90, 70))
    one, other = (RolloutActor(str(tied.folder), EngineOptions(), IMAGE_SIZE) for _ in range(2))
    assert one.ready()
    groups = one.generate_groups(prompts, n=2, max_new_tokens=5, seed=4)
    assert [group.prompt.id for group in groups] == ["p0", "p1", "p2"]
    for again, group in zip(other.generate_groups(prompts, n=2, max_new_tokens=5, seed=4), groups, strict=True):
        for mine, its in zip(again.rollouts, group.rollouts, strict=True):
            assert np.array_equal(mine.token_ids, its.token_ids)
            assert its.logprobs.dtype == np.float32
            assert its.weight_version == tied.engine.weight_version
    elsewhere = one.generate_groups([prompts[0]], n=2, max_new_tokens=5, seed=4)
    assert not np.array_equal(elsewhere[0].rollouts[0].token_ids, groups[0].rollouts[0].token_ids)
    assert one.stats()["samples"] > 0


def _write_adapter(served: Served, folder: Path, seed: int) -> Any:
    from boxmed_ray.model.policy import load_policy

    adapted = add_lora(load_policy(served.folder), rank=8, alpha=16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return adapted.eval()


def test_adapters_are_applied_and_a_rewritten_one_replaces_the_old(adapted: Served, tmp_path: Path) -> None:
    text, prompts, folder = adapted.text(), [EnginePrompt(adapted.text(), IMAGE)], tmp_path / "adapter"
    backbone = adapted.learner

    def assert_same(path: Path | None) -> None:
        ((output,),) = adapted.engine.generate(prompts, greedy=True, max_new_tokens=8, lora_path=path)
        expected = adapted.learner_logprobs(text, IMAGE, output.token_ids)
        assert torch.tensor(output.logprobs) == pytest.approx(expected, abs=1e-4)

    assert_same(None)
    for seed in (1, 2):
        adapted.learner = _write_adapter(adapted, folder, seed)
        assert_same(folder)
    adapted.learner = backbone
    assert_same(None)


def test_an_engine_with_adapters_takes_no_whole_weights(adapted: Served) -> None:
    from boxmed_ray.actors.weight_fleet import PushError
    from boxmed_ray.actors.weight_source import ModuleWeights

    with pytest.raises(PushError, match="an engine with LoRA takes no whole weights"):
        through_shm(ModuleWeights(adapted.learner), [LocalClient(adapted.engine)])


def test_memory_of_images_is_bounded(tied: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxmed_ray.actors import vllm_inputs

    monkeypatch.setattr(vllm_inputs, "_MAX_CACHED_IMAGES", 4)
    for seed in range(10):
        tied.engine.generate([EnginePrompt(tied.text(), random_image(200 + seed))], max_new_tokens=1)
        assert len(tied.engine._inputs._encoder._images) <= 4


def test_grey_images_are_taken(tied: Served) -> None:
    grey = Image.fromarray(np.full((IMAGE_SIZE, IMAGE_SIZE), 90, dtype=np.uint8))
    assert tied.engine.generate([EnginePrompt(tied.text(), grey)], max_new_tokens=2)
