"""Card of an encoder's checkpoint: ``encoder_card_template.md`` filled in from config.json and nothing else."""

from pathlib import Path

from segzoo.catalogue import dataset_page
from segzoo.checkpoints.card import GITHUB, cell, filled, licence_entries, render_card
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.encoder import EncoderConfig
from segzoo.checkpoints.entries import Metrics
from segzoo.checkpoints.licences import allows
from segzoo.checkpoints.provenance import parts_of

TEMPLATE = Path(__file__).with_name("encoder_card_template.md")
SCORES = {  # of encoders, for people
    "nearest_neighbour": "nearest neighbour",
    "nearest_neighbour_random": "nearest neighbour, random weights",
    "nearest_neighbour_small": "nearest neighbour, EfficientNet-Lite0",
    "nearest_neighbour_teacher": "nearest neighbour, the teacher",
    "agreement": "agreement with the teacher",
}


def card_of(config: Config | EncoderConfig) -> str:
    """Return the card of a checkpoint of whichever kind."""
    return render_encoder_card(config) if isinstance(config, EncoderConfig) else render_card(config)


def render_encoder_card(config: EncoderConfig) -> str:
    """Return the Markdown of the card, its YAML header included."""
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        **licence_entries(config),
        library_name="segzoo",
        pipeline_tag="image-feature-extraction",
        tags=["medical-imaging", "encoder", config.encoder.name],
        model_name=config.name,
    )
    metrics = config.metrics or Metrics()
    return filled(
        TEMPLATE,
        header,
        config=config,
        parts=parts_of(config.data),
        scores=[
            [SCORES.get(name, name), f"{score:.4f}", metrics.protocols.get(name, "not recorded")]
            for name, score in metrics.original.items()
        ],
        allows=allows,
        cell=cell,
        dataset_page=dataset_page,
        repository=f"https://github.com/{GITHUB}",
    )
