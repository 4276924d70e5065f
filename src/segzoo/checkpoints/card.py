"""A checkpoint's README.md: a Hugging Face model card made from its config.json and nothing else."""

import json
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.catalogue import dataset_page, kind_of_images, modalities
from segzoo.checkpoints.config import PICTURE, PROBE, RECIPE, tag_of
from segzoo.checkpoints.licences import allows, hub_licence, licence_name
from segzoo.checkpoints.pins import ORGANISATION, published
from segzoo.checkpoints.provenance import dataset_line, held_out, history, linked, listed, parts_of
from segzoo.metrics.names import METRIC_NAMES, class_metric, scores_by_class
from segzoo.registry import class_of, model_facts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


GITHUB = f"{ORGANISATION}/segzoo"  # the repository that torch.hub fetches


def render_card(config: dict[str, Any]) -> str:
    """The Markdown of the card, its YAML header included.

    Args:
        config: the content of a config.json; what it does not say, the card does not claim.
    """
    unsaid: dict[str, Any] = {"name": "checkpoint", "data": {}, "started_from": {}, "metrics": {}, "licences": {}}
    config = unsaid | config
    return f"---\n{render_header(config)}\n---\n\n{render_body(config)}"


# ---- the header, which the Hub reads


def render_header(config: dict[str, Any]) -> str:
    """The YAML by which the Hub files the checkpoint, its licence and its results."""
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        **licence_entries(config),
        library_name="segzoo",
        pipeline_tag="image-segmentation",
        tags=tags(config),
        model_name=config["name"],
        eval_results=eval_results(config) or None,
    )
    return str(header.to_yaml())


def licence_entries(config: dict[str, Any]) -> dict[str, Any]:
    """The licence of the weights in the Hub's spelling; one that the Hub does not know, by its own name and page."""
    licence = config["licences"].get("weights")
    entries: dict[str, Any] = {"license": hub_licence(licence)}
    if entries["license"] == "other":
        entries["license_name"] = licence_name(licence)
        pages = {page for part in history(config) if (page := dataset_page(part)) is not None}
        if len(pages) == 1 and {part.get("licence") for part in history(config)} == {licence}:
            entries["license_link"] = pages.pop()  # the data's publisher, who states it
    return entries


def tags(config: dict[str, Any]) -> list[str]:
    """What people search the Hub by."""
    parts = parts_of(config["data"])
    datasets = [str(part["dataset"]).lower() for part in parts if part.get("dataset") not in (None, "Folder")]
    rank = "3d" if is_of_volumes(config) else "2d"
    found = ["medical-imaging", "segmentation", config["model"]["name"], *datasets, rank]
    return list(dict.fromkeys([*found, *(modality for part in parts for modality in modalities(part))]))


def eval_results(config: dict[str, Any]) -> "list[EvalResult]":
    """Every number that was measured, with how it was counted and at which resolution."""
    from huggingface_hub import EvalResult

    data, metrics = config["data"], config["metrics"]
    dataset = str(data.get("dataset", "unknown"))
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_args={key: data.get(key) for key in ("split", "fold", "split_sha256")},
            metric_type=name,
            metric_value=value,
            metric_name=label(name, config),
            metric_args={"protocol": protocol(config, name), "resolution": resolution},
        )
        for resolution in ("original", "resized")
        for name, value in metrics.get(resolution, {}).items()
    ]


# ---- the body, which people read


def render_body(config: dict[str, Any]) -> str:
    """The Markdown below the header."""
    sections = [
        f"# {config['name']}",
        summary(config),
        *picture(config),
        classes_sentence(config),
        "## Intended use and limits",
        "For research, for comparison with other models, and as a start for fine-tuning on images of your own.",
        "\n".join(f"- {limit}" for limit in limits(config)),
        "## Load and use",
        *loading(config),
        "## Input",
        input_sentence(config["preprocessing"]),
        "## Training",
        *training(config),
        "## Results",
        *results(config),
        "## Licences",
        licences_table(config),
    ]
    return "\n\n".join(sections) + "\n"


def summary(config: dict[str, Any]) -> str:
    """Which architecture it is, and how large."""
    facts = model_facts(config["model"]["name"])
    size = f" {config['parameters']:,} parameters." if config.get("parameters") else ""
    return f"{facts.summary} Paper: {facts.paper}.{size}"


def picture(config: dict[str, Any]) -> list[str]:
    """What it does to an image that it was not trained on, if the checkpoint has a picture of that."""
    if PICTURE not in config["sha256"]:
        return []
    example = config.get("example", {})
    origin = ", ".join(example[key] for key in ("source", "licence") if example.get(key))
    what = "Input, truth and prediction"
    return [f"![{what}]({PICTURE})", f"{what}; {origin}." if origin else f"{what}."]


def classes_sentence(config: dict[str, Any]) -> str:
    """What the masks say."""
    if is_multilabel(config):
        return f"It gives a mask for each of these, and they may overlap: {', '.join(config['class_names'])}."
    values = ", ".join(f"{value} {name}" for value, name in enumerate(config["class_names"]))
    return f"The values of its mask: {values}."


def limits(config: dict[str, Any]) -> list[str]:
    """What it is not for, which images it knows, and what its results do not say."""
    found = ["It is **not a medical device**: not for diagnosis or treatment.", known_images(config)]
    names = config["class_names"] if is_multilabel(config) else config["class_names"][1:]
    found.append(f"It marks {listed(names)}; whatever else an image shows is left unmarked.")
    if any(part.get("normal") is False for part in parts_of(config["data"])):
        found.append("Every image that it was trained on shows a lesion, so it may find one where there is none.")
    if not config["metrics"]:
        return [*found, "How good it is was not measured: measure it on images of your own before you rely on it."]
    return [
        *found,
        held_out(config),
        "The results are means, and a mean hides the images on which it fails: look at every mask that you use.",
    ]


def known_images(config: dict[str, Any]) -> str:
    """What it was trained on, as a limit."""
    parts = parts_of(config["data"])
    if not parts:
        return "What it was trained on is not recorded, so which images it suits is unknown."
    subjects = [f"{kind} ({part.get('dataset')})" for part in parts if (kind := kind_of_images(part))]
    which = f": {listed(subjects)}" if len(subjects) == len(parts) else ""
    return (
        f"It knows images like those that it was trained on{which}. Of another body part, device, hospital or way of "
        "taking images expect worse, and measure it there first."
    )


def loading(config: dict[str, Any]) -> list[str]:
    """Every way to load it, with lines that run as they are."""
    name, tag = config["name"], tag_of(config)
    installed = "`pip install medsegzoo` installs segzoo."
    if name in published():
        address, revision = f"{ORGANISATION}/{name}", f', revision="{tag}"'
    else:  # nobody but its owner knows where it lies
        address, revision = name, ""
        installed += f" `{name}` stands for the path of this folder or, on the Hub, for its `user/repo`."
    suffix, folder = (".nii.gz", "scans/") if is_of_volumes(config) else (".png", "images/")
    release = f"{GITHUB}:v{config.get('segzoo_version', __version__)}"
    probed = " and that it computes here what it computed where it was published" if PROBE in config["sha256"] else ""
    return [
        f"{installed} By name:",
        python(
            f"model = segzoo.from_pretrained({quoted(name)})",
            f"result = model.predict({quoted('scan' + suffix)})",
            f"result.save({quoted('mask' + suffix)})",
            'result.overlay().save("overlay.png")',
        ),
        "By class:",
        python(f"model = segzoo.{class_name(config)}.from_pretrained({quoted(address)}{revision})"),
        "Through torch.hub, which needs segzoo's requirements and not segzoo:",
        python(
            f"model = torch.hub.load({quoted(release)}, {quoted(config['model']['name'])}, pretrained={quoted(name)})",
            uses="torch",
        ),
        f"In the shell, where `verify` checks that the files are intact{probed}:",
        f"```shell\nsegzoo predict {shlex.quote(name)} {folder} --output masks/ --overlay\n"
        f"segzoo verify {shlex.quote(name)}\n```",
        f'On the Hub this version has the tag `{tag}`: `revision="{tag}"` asks for it and no other.',
    ]


def class_name(config: dict[str, Any]) -> str:
    """The model's class, such as "LVUNet"."""
    return str(class_of(config["model"]["name"]).__name__)


def python(*lines: str, uses: str = "segzoo") -> str:
    """A block of code."""
    return "\n".join(["```python", f"import {uses}", "", *lines, "```"])


def quoted(text: str) -> str:
    """A Python string, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def input_sentence(preprocessing: dict[str, Any]) -> str:
    """What is done to an image or a volume before the network sees it."""
    if "patch_size" in preprocessing:
        return volume_input_sentence(preprocessing)
    kind = {1: "grey", 3: "RGB"}.get(preprocessing["channels"], f"{preprocessing['channels']}-channel")
    size = preprocessing["image_size"]
    resized = "at its own size" if size is None else f"resized to {size[0]}x{size[1]} (bilinear, antialiased)"
    mean, std = ([round(value, 3) for value in preprocessing[key]] for key in ("mean", "std"))
    return (
        f"Any 8- or 16-bit image, read as {kind}, {resized}, scaled to 0..1 and normalised by mean {mean} and "
        f"standard deviation {std}. The mask comes back at the image's own size."
    )


def volume_input_sentence(preprocessing: dict[str, Any]) -> str:
    """What is done to a volume; sizes in the order of the arrays' axes."""
    channels, spacing = preprocessing["channels"], preprocessing["spacing"]
    sampled = "at its own spacing" if spacing is None else f"resampled to {times(spacing)} mm (trilinear)"
    if preprocessing["intensity"] == "zscore":
        normalised = "each channel brought to mean 0 and standard deviation 1, volume by volume"
    else:
        low, high = preprocessing["window"]
        normalised = (
            f"intensities clipped to {low:g}..{high:g} and normalised by mean {preprocessing['mean']:g} and standard "
            f"deviation {preprocessing['std']:g}"
        )
    return (
        f"A NIfTI, NRRD or MHA volume of {channels} channel{'s' if channels > 1 else ''}, its axes (d, h, w) turned to "
        f"lead to {preprocessing['orientation']}, {sampled}, {normalised}. A larger volume is segmented in overlapping "
        f"windows of {times(preprocessing['patch_size'])} voxels. The mask comes back on the volume's own grid: shape, "
        "spacing, orientation and affine."
    )


def times(sides: list[float]) -> str:
    """Lengths as "1 x 1 x 2.5"."""
    return " x ".join(f"{side:g}" for side in sides)


def training(config: dict[str, Any]) -> list[str]:
    """What it was trained on, and how to train it again."""
    data = config["data"]
    arguments = ", ".join(f"{key}={value}" for key, value in config["model"]["arguments"].items())
    said = [f"Model `{config['model']['name']}` ({arguments}), trained on:", data_list(data)]
    if not data:
        said = [f"Model `{config['model']['name']}` ({arguments}). What it was trained on is not recorded."]
    for earlier in data.get("pretrained_on", []):
        said += ["Before that:", data_list(earlier)]
    for option, weights in config["started_from"].items():
        said.append(
            f"It started from the weights `{weights}` (`{option}` of its recipe), which are not in this folder."
        )
    if RECIPE in config["sha256"]:
        said.append(
            f"`segzoo fit -c {RECIPE}` trains it again: {RECIPE} is in this folder, and its `root` says where the "
            "data lies. The data is not included."
        )
    return said


def data_list(data: dict[str, Any]) -> str:
    """A line for each dataset of a training."""
    return "\n".join(f"- {dataset_line(part)}" for part in parts_of(data))


def results(config: dict[str, Any]) -> list[str]:
    """What ``segzoo test`` printed, of each class where there are several, and how it was counted."""
    metrics = config["metrics"]
    if not metrics:
        return ["Not measured."]
    original, resized = metrics.get("original", {}), metrics.get("resized", {})
    by_class = scores_by_class(original)
    names = [name for name in dict.fromkeys([*resized, *original]) if class_metric(name)[1] is None]
    said = [
        table(
            ("metric", "at the image's own resolution", "at the network's resolution"),
            [(label(name, config), score(original, name), score(resized, name)) for name in names],
        )
    ]
    if by_class:
        columns = list(dict.fromkeys(name for scores in by_class.values() for name in scores))
        rows = [
            (config["class_names"][number], *(score(scores, name) for name in columns))
            for number, scores in by_class.items()
        ]
        head = ("class", *(label(name, config) for name in columns))
        said += ["Class by class, at the image's own resolution:", table(head, rows)]
    said.append(f"Measured by `segzoo test` on {metrics.get('images')} images. How the numbers are counted:")
    protocols: dict[str, list[str]] = {}
    for name in names:
        protocols.setdefault(protocol(config, name), []).append(label(name, config))
    return [*said, "\n".join(f"- {', '.join(labels)}: {words}." for words, labels in protocols.items())]


def score(scores: dict[str, float], name: str) -> str:
    """A number for people."""
    return f"{scores[name]:.4f}" if name in scores else "-"


def protocol(config: dict[str, Any], name: str) -> str:
    """How the metric called ``name`` was counted."""
    return str(config["metrics"].get("protocols", {}).get(class_metric(name)[0], "not recorded"))


def label(name: str, config: dict[str, Any]) -> str:
    """A metric's name for people: "dataset_dice" is "Dice (dataset)", "dice_1" is "Dice (lesion)"."""
    metric, number = class_metric(name)
    plain = metric.removeprefix("dataset_")
    words = METRIC_NAMES.get(plain, plain)
    if plain == "hd95":
        words += ", mm" if is_of_volumes(config) else ", pixels"
    if number is not None:
        return f"{words} ({config['class_names'][number]})"
    return words + (" (dataset)" if plain != metric else "")


def licences_table(config: dict[str, Any]) -> str:
    """The licences of code, weights and data, each for itself, and what they allow."""
    licences, data = config["licences"], config["data"]
    rows = [("code", licences.get("code")), ("weights", licences.get("weights"))]
    rows.append((f"training data{names_of(data)}", licences.get("data")))
    rows += [(f"earlier training data{names_of(part)}", part.get("licence")) for part in data.get("pretrained_on", [])]
    if "example" in config:
        shown = "example image" if PICTURE in config["sha256"] else f"image that {PROBE} holds"
        rows.append((f"{shown} ({config['example'].get('source', 'unknown')})", config["example"].get("licence")))
    return table(
        ("of", "licence", "allows"), [(what, licence or "not stated", allows(licence)) for what, licence in rows]
    )


def names_of(data: dict[str, Any]) -> str:
    """The datasets of a training, with their pages, in brackets."""
    return f" ({', '.join(linked(part) for part in parts_of(data))})" if data else ""


# ---- what the parts share


def is_of_volumes(config: dict[str, Any]) -> bool:
    """Whether its input is a volume and not an image."""
    return "patch_size" in config["preprocessing"]


def is_multilabel(config: dict[str, Any]) -> bool:
    """Whether every class has a mask of its own."""
    return bool(config["model"]["arguments"].get("multilabel", False))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar or a line break in a cell would end it, so neither stays."""
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
