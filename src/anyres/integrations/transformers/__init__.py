"""Our models as models of Hugging Face transformers, for its Auto classes, pipelines and Trainer.

    import anyres.integrations.transformers  # registers them
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder)  # that save_pretrained wrote
    processor = AutoImageProcessor.from_pretrained(folder)
    logits = model(**processor(images, return_tensors="pt")).logits  # of any mix of sizes

The image processor keeps every image's own size: a batch is padded to a common tensor, `image_sizes` says what is
image, and the model takes the padding off again, so that each image gives what it gives alone. With `do_pad=False` it
returns a list, which stock pipelines can batch:

    processor = AutoImageProcessor.from_pretrained(folder, do_pad=False)
    classify = pipeline("image-classification", model=model, image_processor=processor, batch_size=4)
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from anyres.integrations.transformers.configuration import AnyresConfig, AnyresMAEConfig
from anyres.integrations.transformers.image_processing import AnyresImageProcessor, AnyresImageProcessorPil, collate
from anyres.integrations.transformers.modeling import (
    AnyresBackbone,
    AnyresForImageClassification,
    AnyresForPreTraining,
    AnyresModel,
    from_anyres,
)

__all__ = [
    "AnyresBackbone",
    "AnyresConfig",
    "AnyresForImageClassification",
    "AnyresForPreTraining",
    "AnyresImageProcessor",
    "AnyresImageProcessorPil",
    "AnyresMAEConfig",
    "AnyresModel",
    "collate",
    "from_anyres",
]

AutoConfig.register("anyres", AnyresConfig, exist_ok=True)
AutoConfig.register("anyres_mae", AnyresMAEConfig, exist_ok=True)
AutoModel.register(AnyresConfig, AnyresModel, exist_ok=True)
AutoBackbone.register(AnyresConfig, AnyresBackbone, exist_ok=True)
AutoModelForImageClassification.register(AnyresConfig, AnyresForImageClassification, exist_ok=True)
AutoModelForPreTraining.register(AnyresMAEConfig, AnyresForPreTraining, exist_ok=True)
for _config in (AnyresConfig, AnyresMAEConfig):
    AutoImageProcessor.register(
        _config,
        image_processor_classes={"torchvision": AnyresImageProcessor, "pil": AnyresImageProcessorPil},
        exist_ok=True,
    )
