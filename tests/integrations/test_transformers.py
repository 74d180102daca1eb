"""transformers: Auto classes, native sizes through the image processor, the stock pipeline, and the Trainer."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import anyres

transformers = pytest.importorskip("transformers")
ours = pytest.importorskip("anyres.integrations.transformers")

SMALL = {"width": 24, "depth": 2, "heads": 2, "patch_size": 8, "grid": (3, 3)}
SIZES = [(37, 53), (24, 24), (90, 11), (37, 53), (64, 80)]
NAMES = ["anyres_tiny_patch16", "vitar_tiny_patch16", "deit_tiny_patch16"]


@torch.no_grad()
def noisy(model):
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make(name="anyres_tiny_patch16"):
    torch.manual_seed(0)
    config = ours.AnyresConfig.from_name(name, num_labels=3, **SMALL)
    return noisy(ours.AnyresForImageClassification(config))


def pictures():
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


def pictures_of(batch):
    """Without their padding."""
    return [image[:, :h, :w] for image, (h, w) in zip(batch["pixel_values"], batch["image_sizes"], strict=True)]


@pytest.fixture
def folder(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    ours.AnyresImageProcessor.of_model(model.config).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_is_one_by_one(name):
    model = make(name)
    processor = ours.AnyresImageProcessor.of_model(model.config)
    batch = processor(pictures(), return_tensors="pt")
    assert batch["pixel_values"].shape == (5, 3, 90, 80) and batch["image_sizes"].tolist() == [list(s) for s in SIZES]
    with torch.inference_mode():
        together = model(**batch).logits
        alone = torch.cat([model(**processor(each, return_tensors="pt")).logits for each in pictures()])
        listed = model(**processor(pictures(), do_pad=False)).logits
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(listed, together, atol=1e-5, rtol=1e-5)


def test_auto_classes_round_trip(folder):
    model = make()
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert type(loaded) is ours.AnyresForImageClassification and type(processor) is ours.AnyresImageProcessor
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    base = transformers.AutoModel.from_pretrained(folder)
    batch = processor(pictures()[:2], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        torch.testing.assert_close(base(**batch).pooler_output, model.anyres(**batch).pooler_output)
    other = transformers.AutoModelForImageClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True
    )
    assert other.classifier.weight.shape == (5, 24) and 0 < other.classifier.weight.std() < 0.05
    merger, kept = (each.anyres.vit.merger.state_dict() for each in (model, other))
    assert all(torch.equal(value, kept[key]) for key, value in merger.items())


def test_our_initialisation_survives():
    config = ours.AnyresConfig.from_name("anyres_tiny_patch16", start="mean", **SMALL)
    model = ours.AnyresForImageClassification(config)
    zeros = [name for name, value in model.anyres.vit.merger.named_parameters() if not value.any()]
    assert {"block.proj.weight", "block.mlp.fc2.weight"} <= set(zeros)


def test_models_of_ours_become_theirs(tmp_path):
    model = noisy(anyres.create_model("vitar_tiny_patch16", num_classes=3, **SMALL))
    made = ours.from_anyres(model, ["cat", "dog", "owl"])
    upgraded = noisy(anyres.upgrade(VisionTransformer(img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=2)))
    for mine, theirs in ((model, made), (upgraded, ours.from_anyres(upgraded))):
        theirs.save_pretrained(tmp_path)
        loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
        batch = torch.randn(2, 3, 50, 41)
        with torch.inference_mode():
            assert torch.equal(loaded(batch).logits, mine(batch))
    assert made.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    bare = anyres.create_model("vitar_tiny_patch16", num_classes=0, **SMALL)
    fresh = ours.from_anyres(bare, num_labels=4)
    assert fresh(torch.randn(1, 3, 40, 30)).logits.shape == (1, 4)
    for given in ((model, ["cat", "dog"]), (model, (), 4), (bare,), (bare, ["cat"], 2)):
        with pytest.raises(ValueError, match="allowed: num_labels for a model without a head alone, and a name"):
            ours.from_anyres(*given)


@pytest.mark.parametrize("options", [{}, {"do_resize": True, "size": {"height": 30, "width": 20}}])
def test_both_backends_prepare_alike(folder, options):
    one = transformers.AutoImageProcessor.from_pretrained(folder, backend="torchvision", **options)
    other = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
    assert (type(one), type(other)) == (ours.AnyresImageProcessor, ours.AnyresImageProcessorPil)
    first, second = (each(pictures(), return_tensors="pt") for each in (one, other))
    assert torch.equal(first["image_sizes"], second["image_sizes"]) and second["pixel_values"].dtype == torch.float32
    difference = (first["pixel_values"] - second["pixel_values"]).abs()
    if options:  # the two libraries round after each of two passes, and bicubic overshoots on noise
        assert difference.mean() < 0.01
    else:
        assert difference.max() < 1e-5
    with pytest.raises(ValueError, match="image 0 is 0x5 pixels"):
        other([np.zeros((0, 5, 3), np.uint8)])
    other.save_pretrained(folder / "again")
    assert type(transformers.AutoImageProcessor.from_pretrained(folder / "again")) is ours.AnyresImageProcessor


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_those_of_every_block(name):
    model = make(name)
    batch = ours.AnyresImageProcessor.of_model(model.config)(pictures(), return_tensors="pt")
    vit, image = model.anyres.vit, pictures_of(batch)[1]
    with torch.inference_mode():
        plain, found = model(**batch), model(**batch, output_hidden_states=True)
        base, whole = model.anyres(**batch, output_hidden_states=True), model.anyres(**batch)
        blocks = vit.forward_intermediates(image[None], output_fmt="NLC", intermediates_only=True)
        model.config.output_hidden_states = True
        tensor = model(batch["pixel_values"])
    torch.testing.assert_close(found.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(base.last_hidden_state, whole.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert plain.hidden_states is None and len(found.hidden_states) == 1 + SMALL["depth"] == len(tensor.hidden_states)
    for expected, states in zip(blocks, found.hidden_states[1:], strict=True):
        own = states[1, vit.num_prefix_tokens :][: expected.shape[1]]
        torch.testing.assert_close(own, expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}])
def test_the_stock_pipeline_takes_native_sizes(folder, options):
    processor = transformers.AutoImageProcessor.from_pretrained(folder, do_pad=False)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    classify = transformers.pipeline("image-classification", model=model, image_processor=processor, **options)
    found = classify(pictures(), top_k=3)
    with torch.inference_mode():
        expected = [model(**processor(each)).logits.softmax(1)[0] for each in pictures()]
    for answers, probabilities in zip(found, expected, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        for index, value in enumerate(probabilities.tolist()):
            assert scores[model.config.id2label[index]] == pytest.approx(value, abs=1e-5)


class Folder(torch.utils.data.Dataset):
    """Pictures of two colours at native sizes, as a data set of `Trainer`."""

    def __init__(self, processor):
        draw = np.random.default_rng(1)
        self.processor, self.labels = processor, [index % 2 for index in range(12)]
        self.images = [
            Image.fromarray((100 * label + draw.integers(0, 100, (*size, 3))).astype("uint8"))
            for label, size in zip(self.labels, SIZES * 3, strict=False)
        ]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "labels": self.labels[index]}


def losses_of(model, folder, **arguments):
    """What `Trainer` logs while the model learns the pictures."""
    processor = ours.AnyresImageProcessor.of_model(model.config)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            output_dir=folder, remove_unused_columns=False, save_strategy="no", use_cpu=True, seed=3, disable_tqdm=True,
            report_to=[], **arguments,
        ),
        train_dataset=Folder(processor), processing_class=processor, data_collator=ours.collate(processor),
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_trainer_learns_as_one_by_one(tmp_path):
    def trained(batch_size, accumulated):
        torch.manual_seed(0)
        model = make()
        losses = losses_of(
            model, tmp_path, max_steps=3, per_device_train_batch_size=batch_size, learning_rate=1e-3, logging_steps=1,
            gradient_accumulation_steps=accumulated,
        )  # fmt: skip
        return losses, model.state_dict()

    (losses, together), (others, alone) = trained(4, 1), trained(1, 4)
    assert losses == pytest.approx(others, abs=1e-4) and len(losses) == 3 and losses[-1] != losses[0]
    for key, value in together.items():
        torch.testing.assert_close(value, alone[key], atol=2e-4, rtol=1e-3)


def test_a_resizing_processor_and_a_grey_model():
    processor = ours.AnyresImageProcessor(do_resize=True, size={"height": 30, "width": 20})
    assert processor(pictures(), return_tensors="pt")["pixel_values"].shape == (5, 3, 30, 20)
    model = ours.AnyresForImageClassification(ours.AnyresConfig.from_name("vitar_tiny_patch16", in_channels=1, **SMALL))
    processor = ours.AnyresImageProcessor.of_model(model.config)
    assert model(**processor(pictures()[0].convert("L"), return_tensors="pt")).logits.shape == (1, 2)


def test_checkpointing_changes_nothing():
    model, batch = make(), {"pixel_values": torch.randn(2, 3, 50, 41), "labels": torch.tensor([0, 2])}
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append([value.grad.clone() for value in model.parameters()])
    assert model.anyres.vit.trunk.grad_checkpointing
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_what_does_not_fit_is_refused():
    model, processor = make(), ours.AnyresImageProcessor()
    batch = torch.randn(2, 3, 20, 30)
    for sizes in ([[20, 31], [20, 30]], [[20, 30]], [[0, 30], [20, 30]]):
        with pytest.raises(ValueError, match="at most 20x30"):
            model(batch, image_sizes=torch.tensor(sizes))
    with pytest.raises(ValueError, match="image 1 is 0x5 pixels"):
        processor([torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 0, 5, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="there are no images"):
        processor([])
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="allowed: single_label_classification"):
        model(batch, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="architecture is 'Detector'; allowed: ViTAR, UpgradedViT"):
        ours.AnyresConfig(architecture="Detector")


DENSE = {**SMALL, "cells": "2x2", "depth": 3}


@pytest.mark.parametrize("name", ["anyres_tiny_patch16", "vitar_tiny_patch16"])
def test_a_backbone_gives_the_maps_of_ours(name):
    config = ours.AnyresConfig.from_name(name, out_indices=[0, 1, 3], **DENSE)
    backbone = noisy(transformers.AutoBackbone.from_config(config))
    mine = anyres.create_model(name, num_classes=0, **DENSE).eval()
    mine.load_state_dict(backbone.anyres.vit.state_dict())
    last = ours.AnyresBackbone(ours.AnyresConfig.from_name(name, out_indices=[0, -1], **DENSE))
    assert [each.shape[1:] for each in last(torch.randn(1, 3, 32, 48)).feature_maps] == [(24, 2, 3)] * 2
    assert backbone.channels == [24] * 3 and backbone.out_features == ["stem", "stage1", "stage3"]
    batch = torch.randn(2, 3, 61, 80)
    with torch.inference_mode():
        maps = backbone(batch).feature_maps
        expected = mine.forward_intermediates(batch, [0, 2], intermediates_only=True)
        assert torch.equal(maps[0], mine.grid_tokens(batch).permute(0, 3, 1, 2))
        assert all(map(torch.equal, maps[1:], expected)) and maps[1].shape == (2, 24, 4, 5)
    with pytest.raises(ValueError, match='allowed in a backbone: cells="1x1" or "2x2"'):
        ours.AnyresBackbone(ours.AnyresConfig.from_name(name, **SMALL))


def test_a_segmenter_of_transformers_takes_our_backbone():
    backbone = ours.AnyresConfig.from_name("anyres_tiny_patch16", out_indices=[1, 2, 3], **DENSE)
    config = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=4, hidden_size=16, pool_scales=[1, 2], use_auxiliary_head=False
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    batch = {"pixel_values": torch.randn(2, 3, 64, 96), "labels": torch.randint(4, (2, 64, 96))}
    loss = model.train()(**batch).loss
    loss.backward()
    assert loss.isfinite() and model.backbone.anyres.vit.merger.block.q.weight.grad.any()
    with torch.inference_mode():
        for size in ((64, 96), (80, 48)):
            assert model.eval()(torch.randn(1, 3, *size)).logits.shape == (1, 4, *size)


def test_a_detector_of_transformers_takes_our_backbone():
    backbone = ours.AnyresConfig.from_name("vitar_tiny_patch16", out_indices=[3], **DENSE)
    config = transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_labels=3, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config)
    target = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}
    batch = torch.randn(2, 3, 64, 96)
    loss = model.train()(pixel_values=batch, pixel_mask=torch.ones(2, 64, 96), labels=[target, target]).loss
    loss.backward()
    assert loss.isfinite()
    with torch.inference_mode():
        for size in ((64, 96), (80, 48)):
            assert model.eval()(torch.randn(1, 3, *size)).pred_boxes.shape == (1, 5, 4)


MAE = {**SMALL, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.mark.parametrize("name", ["mae_anyres_tiny_patch16", "mae_vitar_tiny_patch16"])
def test_masked_auto_encoding(tmp_path, name):
    torch.manual_seed(0)
    mine = noisy(anyres.create_model(name, **MAE))
    model = ours.from_anyres(mine)
    model.save_pretrained(tmp_path)
    ours.AnyresImageProcessor.of_model(model.config).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    loaded = transformers.AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(loaded) is ours.AnyresForPreTraining and loaded.config.mae_config() == mine.config
    batch, keys = processor(pictures()[:2], return_tensors="pt"), torch.arange(2)
    loss = loaded(**batch, keys=keys).loss
    torch.testing.assert_close(loss, mine(pictures_of(batch), keys))
    loss.backward()
    assert loaded.mae.backbone.merger.block.q.weight.grad.any()
    classifier = ours.from_anyres(loaded.mae.backbone, num_labels=3)
    encoder = classifier.anyres.vit.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in mine.backbone.state_dict().items())
    fresh = ours.AnyresForPreTraining(ours.AnyresMAEConfig.from_name(name, **MAE))
    assert not fresh.mae.decoder_pred.bias.any() and fresh.mae.mask_token.any()
    with pytest.raises(ValueError, match="pretraining has no depth; allowed: "):
        ours.AnyresMAEConfig(pretraining={"depth": 3}).mae_config()


def test_the_trainer_pretrains(tmp_path):
    torch.manual_seed(0)
    model = ours.AnyresForPreTraining(ours.AnyresMAEConfig.from_name("mae_anyres_tiny_patch16", **MAE))
    losses = losses_of(
        model, tmp_path, max_steps=30, per_device_train_batch_size=4, learning_rate=3e-3, logging_steps=10
    )
    assert losses[-1] < 0.9 * losses[0]
