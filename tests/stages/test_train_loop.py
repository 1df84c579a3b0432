"""The training loop of the supervised stages on one rank, without Ray."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from boxmed_ray.config import LoraConfig, TrainableConfig
from boxmed_ray.model.policy import digest, load_policy
from boxmed_ray.model.shared_prefix import response_logprobs
from boxmed_ray.stages.train_loop import (
    DIVERGED,
    PROGRESS,
    RESULT,
    STOP,
    Job,
    Worker,
    batch_indices,
    share_of,
    train_loop,
)
from tests import one_rank
from tests.stages import supervised_cases as cases


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> None:
    one_rank.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return cases.backbone(cases.config(folder), folder)


def progress(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.out_folder / PROGRESS).read_text().splitlines()]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    drawn = [index for step in range(10) for index in batch_indices(step, 3, 10, seed=1)]
    epochs = [drawn[0:10], drawn[10:20], drawn[20:30]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert drawn != [index for step in range(10) for index in batch_indices(step, 3, 10, seed=2)]


def test_a_batch_larger_than_the_data_repeats_no_example_before_all_were_seen() -> None:
    assert Counter(batch_indices(0, 8, 3, seed=0)).most_common(1)[0][1] == 3


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_make_up_the_batch_and_weigh_about_the_same(ranks: int) -> None:
    lengths = [(i * 37) % 90 + 5 for i in range(32)]
    shares = [share_of(range(32), lengths, rank, ranks) for rank in range(ranks)]
    assert sorted(index for share in shares for index in share) == list(range(32))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


def test_the_loss_is_transformers_own_on_the_response_tokens_alone(tmp_path: Path, model: Path) -> None:
    made = cases.examples(tmp_path, 4)
    job = cases.job("mcl", cases.config(tmp_path, steps=1), model, tmp_path / "out", made)
    Worker(job).run()
    reference = AutoModelForImageTextToText.from_pretrained(model).eval()
    processor = AutoProcessor.from_pretrained(model)
    total, tokens = 0.0, 0
    for example in made:
        from PIL import Image

        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.prompt}]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        image = Image.open(example.study.image).convert("RGB")
        prompt = processor(text=[text], images=[image], return_tensors="pt")
        whole = processor(text=[text + example.response + "<|im_end|>"], images=[image], return_tensors="pt")
        labels = whole["input_ids"].clone()
        labels[:, : prompt["input_ids"].shape[1]] = -100
        count = int((labels != -100).sum())
        with torch.no_grad():
            total += float(reference(**whole, labels=labels).loss) * count
        tokens += count
    first = progress(job)[0]
    assert first["tokens"] == tokens
    assert first["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_mcl_learns_and_leaves_a_model_that_transformers_loads(tmp_path: Path, model: Path) -> None:
    job = cases.job("mcl", cases.config(tmp_path, steps=25), model, tmp_path / "out", cases.examples(tmp_path))
    Worker(job).run()
    losses = [line["loss"] for line in progress(job)]
    assert len(losses) == 25
    assert losses[-1] < 0.8 * losses[0]
    assert [folder.name for folder in sorted((job.out_folder / "checkpoints").iterdir())] == [
        "step-00000024", "step-00000025",
    ]  # fmt: skip
    trained = load_policy(job.out_folder / "model")
    assert digest(trained.named_parameters()) != digest(load_policy(model).named_parameters())
    assert AutoProcessor.from_pretrained(job.out_folder / "model").image_token == "<|image_pad|>"


DROPOUT = TrainableConfig(lora=LoraConfig(rank=4, dropout=0.2))
"""What draws from the random generators while it trains."""


@pytest.mark.parametrize(("zero_stage", "train"), [(0, None), (2, None), (2, DROPOUT)])
def test_a_stopped_stage_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, model: Path, zero_stage: int, train: TrainableConfig | None
) -> None:
    made = cases.examples(tmp_path)
    config = cases.config(tmp_path, zero_stage=zero_stage, train=train)
    whole = cases.job("mcl", config, model, tmp_path / "whole", made)
    train_loop(whole)

    def parted() -> Job:
        return cases.job("mcl", config, model, tmp_path / "parted", made)

    (parted().out_folder / STOP).touch()
    for _ in range(5):  # asked to stop at every step: one step each time
        train_loop(parted())
    (parted().out_folder / STOP).unlink()
    train_loop(parted())
    assert [(line["step"], line["loss"], line["lr"]) for line in progress(parted())] == [
        (line["step"], line["loss"], line["lr"]) for line in progress(whole)
    ]
    ends = [digest(load_policy(job.out_folder / "model").named_parameters()) for job in (whole, parted())]
    assert ends[0] == ends[1]


def test_the_adapter_trains_and_the_backbone_stays_bit_for_bit(tmp_path: Path, model: Path) -> None:
    from peft import PeftModel

    config = cases.config(tmp_path, steps=6)
    job = cases.job("adapter", config, model, tmp_path / "out", cases.examples(tmp_path))
    Worker(job).run()
    result = json.loads((job.out_folder / RESULT).read_text())
    on_disk = digest(load_policy(model).named_parameters())
    assert result["backbone_before"] == result["backbone_after"] == on_disk
    losses = [line["loss"] for line in progress(job)]
    assert losses[-1] < losses[0]
    loaded = PeftModel.from_pretrained(load_policy(model), job.out_folder / "adapter")
    lora = {name: value for name, value in loaded.named_parameters() if "lora_B" in name}
    assert lora
    assert all(bool(value.abs().max() > 0) for value in lora.values())
    assert not any("visual" in name for name in lora)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_mcl_with_lora_leaves_a_plain_model_with_the_lora_in_it(tmp_path: Path, model: Path, zero_stage: int) -> None:
    lora = LoraConfig(rank=4, alpha=8, parts=("language_model",))
    train = TrainableConfig(language_model=True, projector=True, vision_tower=False, lora=lora)
    config = cases.config(tmp_path, train=train, steps=4, zero_stage=zero_stage)
    job = cases.job("mcl", config, model, tmp_path / "out", cases.examples(tmp_path))
    worker = Worker(job)
    worker.run()
    start, trained = (dict(load_policy(f).named_parameters()) for f in (model, job.out_folder / "model"))
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert trained.keys() == start.keys()
    assert changed == {
        name for name in start
        if "visual.merger." in name or ("language_model.layers" in name and name.endswith("proj.weight"))
    }  # fmt: skip
    # The model on disk answers as the one in memory does, with its LoRA beside the layers.
    group = worker._encode(job.rows[0])
    with torch.no_grad():
        live = worker.engine([group]).logprobs[0]
        stored = response_logprobs(load_policy(job.out_folder / "model"), [group]).logprobs[0]
    torch.testing.assert_close(stored, live, rtol=0, atol=1e-5)


def test_numbers_that_are_not_finite_stop_the_stage_with_the_examples_and_the_checkpoint_named(
    tmp_path: Path, model: Path
) -> None:
    """A weight that breaks while it trains: two steps, then nothing but NaN."""
    config = cases.config(tmp_path, steps=20, checkpoint_every=2, max_bad_steps=4)
    made = cases.examples(tmp_path, 3)
    job = cases.job("mcl", config, model, tmp_path / "out", made)

    def go_on() -> Worker:
        return Worker(cases.job("mcl", config, model, tmp_path / "out", made))

    (job.out_folder / STOP).touch()
    for _ in range(2):
        go_on().run()
    (job.out_folder / STOP).unlink()
    first = go_on()
    poison(first)
    (job.out_folder / STOP).touch()
    first.run()  # one bad step, then a checkpoint that counts it
    assert (first.step, first.bad.count) == (3, 1)
    (job.out_folder / STOP).unlink()
    second = go_on()
    assert second.bad.count == 1
    poison(second)
    second.run()
    lines = progress(job)
    assert [line["skipped"] for line in lines] == [False, False, True, True, True, True]
    message = (job.out_folder / DIVERGED).read_text()
    assert "4 steps in a row (mcl.max_bad_steps = 4)" in message
    assert str(job.out_folder / "checkpoints" / "step-00000004") in message  # the newest one was written in between
    assert all(str(example.study.image) in message for example in made)
    assert not (job.out_folder / "model").exists()


def poison(worker: Worker) -> None:
    """Make every log-probability NaN without touching the weights, which stay those of the last good step."""
    worker.model.lm_head.register_forward_hook(lambda *parts: parts[2] * float("nan"))
