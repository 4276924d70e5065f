"""Card of a checkpoint, its README.md on the Hub: ``card_template.md`` filled in from config.json and nothing else."""

import json
import re
import shlex
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.catalogue import dataset_page, kind_of_images, known_limit, modalities
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.entries import Example, Metrics
from segzoo.checkpoints.folder_config import FolderConfig
from segzoo.checkpoints.licences import allows, hub_licence, joined, licence_name
from segzoo.checkpoints.pins import ORGANISATION, published
from segzoo.checkpoints.provenance import listed, parts_of, seen_before, size_words, trainings
from segzoo.metrics.names import METRIC_NAMES, class_metric, scores_by_class
from segzoo.postprocessing import DOUBTS
from segzoo.registry import class_of, model_facts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("card_template.md")
RESOLUTIONS = {"original": "the images' own", "resized": "the network's"}  # of the masks that were compared
GITHUB = f"{ORGANISATION}/segzoo"  # the repository that torch.hub fetches


def render_card(config: Config) -> str:
    """Return the Markdown of the card, its YAML header included; what the config does not say, it does not claim."""
    facts, example, parts = model_facts(config.model.name), config.example or Example(), parts_of(config.data)
    subjects = [f"{kind} ({part.get('dataset')})" for part in parts if (kind := kind_of_images(part))]
    return filled(
        TEMPLATE,
        header(config),
        config=config,
        facts=facts,
        class_name=class_name(config) if facts.builder.startswith("segzoo.") else None,
        published=published().get(config.name, {}).get("tag") == config.tag,  # and no newer version of somebody's own
        organisation=ORGANISATION,
        release=f"{GITHUB}:v{config.segzoo_version or __version__}",
        origin=", ".join(filter(None, (example.source, example.licence))),
        subjects=subjects if len(subjects) == len(parts) else [],
        splits=sorted({str(part.get("split")) for part in parts}),
        **result_tables(config),
        allows=allows,
        joined=joined,
        cell=cell,
        dataset_page=dataset_page,
        doubts=DOUBTS,
        known_limit=known_limit,
        listed=listed,
        metric_names=METRIC_NAMES,
        out_of_fold=out_of_fold,
        parts_of=parts_of,
        resolutions=RESOLUTIONS,
        seen_before=seen_before,
        size_words=size_words,
        test_images=test_images,
        quoted=partial(json.dumps, ensure_ascii=False),  # a string of Python's, in double quotes
        shell=shlex.quote,
    )


def filled(file: Path, header: "ModelCardData", **values: Any) -> str:
    """Return a template filled in, with what the Hub reads at its head."""
    from huggingface_hub import ModelCard

    card = ModelCard(template(file).render(card_data=header.to_yaml(), **values))
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return str(card)


@cache
def template(file: Path) -> "Template":
    """Return a template, compiled: the Hub's client would do that again for each card, longer than it fills it in."""
    from jinja2 import Template

    return Template(file.read_text("utf-8"))


def class_name(config: Config) -> str:
    """Return the model's class, such as "LVUNet"."""
    if config.members:
        return "Ensemble"
    return str(class_of(config.model.name).__name__)


# ---- the header, which the Hub reads


def header(config: Config) -> "ModelCardData":
    """Return what the Hub files the checkpoint by: its licence, its tags and its results."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        **licence_entries(config),
        library_name="segzoo",
        pipeline_tag="image-segmentation",
        tags=tags(config),
        model_name=config.name,
        eval_results=eval_results(config) or None,
    )


def licence_entries(config: FolderConfig) -> dict[str, Any]:
    """Return the licence of the weights as the Hub spells it; one that it does not know, by its own name and page."""
    licence = config.licence
    entries: dict[str, Any] = {"license": hub_licence(licence)}
    if licence is not None and entries["license"] == "other":
        entries["license_name"] = licence_name(licence)
        parts = [part for training in trainings(config.data) for part in parts_of(training)]
        pages = {page for part in parts if (page := dataset_page(part)) is not None}
        if len(pages) == 1 and {part.get("licence") for part in parts} == {licence}:
            entries["license_link"] = pages.pop()  # the data's publisher, who states it
    return entries


def tags(config: Config) -> list[str]:
    """Return what people search the Hub by."""
    parts = parts_of(config.data)
    datasets = [str(part["dataset"]).lower() for part in parts if part.get("dataset") not in (None, "Folder")]
    found = ["medical-imaging", "segmentation", config.model.name, *datasets, f"{config.spatial_dims}d"]
    return list(dict.fromkeys([*found, *(modality for part in parts for modality in modalities(part))]))


def eval_results(config: Config) -> "list[EvalResult]":
    """Return every number that was measured, with how it was counted and at which resolution."""
    from huggingface_hub import EvalResult

    data, metrics = config.data, config.metrics or Metrics()
    dataset = str(data.get("dataset", "unknown"))
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_args={key: data.get(key) for key in ("split", "fold", "split_sha256", "longest_side")},
            metric_type=name,
            metric_value=value,
            metric_name=label(name, config),
            metric_args={"protocol": protocol(name, metrics), "resolution": resolution},
        )
        for resolution, scores in zip(RESOLUTIONS.values(), (metrics.original, metrics.resized), strict=True)
        for name, value in scores.items()
    ]


# ---- results


def out_of_fold(config: Config) -> bool:
    """Return whether the members of an ensemble were held out from different images, so that each scores its own."""
    return bool(config.members) and "split_sha256" not in config.data


def test_images(config: Config) -> int | None:
    """Return how many images are held out, of an ensemble's members together; None where that is not recorded."""
    held_out = [{**config.data, **member.data} for member in config.members] if out_of_fold(config) else [config.data]
    counts = [data.get("counts", {}).get("test") for data in held_out]
    return None if None in counts else sum(counts)


def result_tables(config: Config) -> dict[str, Any]:
    """Return what ``segzoo test`` printed, of each class where there are several, and how it was counted."""
    metrics = config.metrics or Metrics()
    names = [name for name in dict.fromkeys([*metrics.resized, *metrics.original]) if class_metric(name)[1] is None]
    by_class = scores_by_class(metrics.original)
    columns = list(dict.fromkeys(name for scores in by_class.values() for name in scores))
    classes = [
        [cell(config.class_names[number]), *(score(scores, name) for name in columns)]
        for number, scores in by_class.items()
    ]
    protocols: dict[str, list[str]] = {}
    for name in names:
        protocols.setdefault(protocol(name, metrics), []).append(label(name, config))
    return {
        "results": [
            [cell(label(name, config)), score(metrics.original, name), score(metrics.resized, name)] for name in names
        ],
        "classes": [["class", *(cell(label(name, config)) for name in columns)], *classes] if classes else [],
        "protocols": protocols,
    }


def score(scores: dict[str, float], name: str) -> str:
    """Return a number for people."""
    return f"{scores[name]:.4f}" if name in scores else "-"


def protocol(name: str, metrics: Metrics) -> str:
    """Return how a metric was counted."""
    return str(metrics.protocols.get(class_metric(name)[0], "not recorded"))


def label(name: str, config: Config) -> str:
    """Return a metric's name for people: "dataset_dice" is "Dice (dataset)", "dice_1" is "Dice (lesion)"."""
    metric, number = class_metric(name)
    plain = metric.removeprefix("dataset_")
    words = METRIC_NAMES.get(plain, plain)
    if plain == "hd95":
        words += ", mm" if config.spatial_dims == 3 else ", pixels"
    if number is not None:
        return f"{words} ({config.class_names[number]})"
    return words + (" (dataset)" if plain != metric else "")


def cell(text: str) -> str:
    """Return words for a Markdown table, which a bar or a line break in them would end."""
    return " ".join(text.split()).replace("|", "\\|")
