"""A checkpoint's README.md: a Hugging Face model card made from its config.json and nothing else."""

from typing import Any

from segzoo.registry import model_facts

METRIC_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "hd95": "95% Hausdorff distance",
}


def render_card(config: dict[str, Any]) -> str:
    """The Markdown of the card, its YAML header included."""
    from huggingface_hub import EvalResult, ModelCardData

    data, metrics = config["data"], config["metrics"]
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=str(data.get("dataset", "unknown")),
            dataset_name=str(data.get("dataset", "unknown")),
            dataset_args={key: data.get(key) for key in ("split", "fold", "split_sha256")},
            metric_type=name,
            metric_value=value,
            metric_name=label(name),
            metric_args={"protocol": protocol(metrics, name), "resolution": resolution},
        )
        for resolution in ("original", "resized")
        for name, value in metrics.get(resolution, {}).items()
    ]
    header = ModelCardData(
        license=hub_licence(config["licences"]["weights"]),
        library_name="segzoo",
        pipeline_tag="image-segmentation",
        tags=["medical-imaging", "segmentation", config["model"]["name"]],
        model_name=config["name"],
        eval_results=results or None,
    )
    return f"---\n{header.to_yaml()}\n---\n\n{render_body(config)}"


def render_body(config: dict[str, Any]) -> str:
    """The part that people read."""
    facts = model_facts(config["model"]["name"])
    sections = [
        f"# {config['name']}",
        f"{facts.summary} Paper: {facts.paper}. {config['parameters']:,} parameters.",
        f"It segments: {', '.join(config['class_names'])}.",
        "Research software: **not a medical device**, not for diagnosis or treatment.",
        "## Use",
        "```python\nimport segzoo\n\n"
        f'model = segzoo.from_pretrained("{config["name"]}")\n'
        'result = model.predict("image.png")\nresult.save("mask.png")\nresult.overlay().save("overlay.png")\n```',
        f"```shell\nsegzoo predict {config['name']} images/ --output masks/ --overlay\n```",
        "## Input",
        input_sentence(config["preprocessing"]),
        "## Training",
        training_sentence(config),
    ]
    if config["metrics"]:
        sections += ["## Results", results_table(config["metrics"])]
    licences = config["licences"]
    sections += [
        "## Licences",
        f"Code: {licences['code']}. Weights: {licences['weights'] or 'not stated'}. "
        f"Training data: {licences['data'] or 'not stated'}.",
    ]
    return "\n\n".join(sections) + "\n"


def input_sentence(preprocessing: dict[str, Any]) -> str:
    """What is done to an image before the network sees it."""
    kind = {1: "grey", 3: "RGB"}.get(preprocessing["channels"], f"{preprocessing['channels']}-channel")
    size = preprocessing["image_size"]
    resized = "at its own size" if size is None else f"resized to {size[0]}x{size[1]} (bilinear, antialiased)"
    mean, std = ([round(value, 3) for value in preprocessing[key]] for key in ("mean", "std"))
    return (
        f"Any 8- or 16-bit image, read as {kind}, {resized}, scaled to 0..1 and normalised by mean {mean} and "
        f"standard deviation {std}. The mask comes back at the image's own size."
    )


def training_sentence(config: dict[str, Any]) -> str:
    """What it was trained on, and how to train it again."""
    data = config["data"]
    if not data:
        return "Not recorded."
    counts = data.get("counts", {})
    before = "".join(
        f" Before that it was trained on {earlier.get('dataset')} ({earlier.get('counts', {}).get('train')} images; "
        f"sha256 of the split `{earlier.get('split_sha256')}`)."
        for earlier in data.get("pretrained_on", [])
    )
    arguments = ", ".join(f"{key}={value}" for key, value in config["model"]["arguments"].items())
    return (
        f"Model `{config['model']['name']}` ({arguments}) on {data.get('dataset')}, split `{data.get('split')}`, fold "
        f"{data.get('fold')}: {counts.get('train')} images to train, {counts.get('val')} to choose the best epoch, "
        f"{counts.get('test')} held out (sha256 of the split `{data.get('split_sha256')}`). "
        f"`segzoo fit -c train.yaml` trains it again.{before}"
    )


def protocol(metrics: dict[str, Any], name: str) -> str:
    """How the metric called ``name`` was counted."""
    return metrics["dataset_protocol" if name.startswith("dataset_") else "protocol"]


def results_table(metrics: dict[str, Any]) -> str:
    """What ``segzoo test`` printed on the held-out images."""
    rows = ["| metric | at the image's own resolution | at the network's resolution |", "| --- | --- | --- |"]
    for name, value in metrics["original"].items():
        rows.append(f"| {label(name)} | {value:.4f} | {metrics['resized'][name]:.4f} |")
    return "\n".join(rows) + (
        f"\n\nProtocol: {metrics['protocol']}; {metrics['images']} held-out images. Rows named "
        f"dataset: {metrics['dataset_protocol']}. These are the numbers that `segzoo test` prints."
    )


def label(name: str) -> str:
    """A metric's name for people: "dataset_dice" is "Dice (dataset)"."""
    plain = name.removeprefix("dataset_")
    return METRIC_NAMES.get(plain, plain) + (" (dataset)" if plain != name else "")


def hub_licence(licence: str | None) -> str:
    """The Hub's spelling of a licence, which is its SPDX name in small letters, or "other"."""
    known = {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "apache-2.0", "mit", "bsd-3-clause"}
    return licence.lower() if licence and licence.lower() in known else "other"
