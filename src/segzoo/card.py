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
            metric_name=label(name, config),
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
        use(config),
        "## Input",
        input_sentence(config["preprocessing"]),
        "## Training",
        training_sentence(config),
    ]
    if config["metrics"]:
        sections += ["## Results", results_table(config)]
    licences = config["licences"]
    sections += [
        "## Licences",
        f"Code: {licences['code']}. Weights: {licences['weights'] or 'not stated'}. "
        f"Training data: {licences['data'] or 'not stated'}.",
    ]
    return "\n\n".join(sections) + "\n"


def use(config: dict[str, Any]) -> str:
    """How to segment with it, in Python and in the shell."""
    image, mask, inputs = "image.png", "mask.png", "images/"
    if "patch_size" in config["preprocessing"]:
        image, mask, inputs = "scan.nii.gz", "mask.nii.gz", "scans/"
    return (
        f'```python\nimport segzoo\n\nmodel = segzoo.from_pretrained("{config["name"]}")\n'
        f'result = model.predict("{image}")\nresult.save("{mask}")\nresult.overlay().save("overlay.png")\n```\n\n'
        f"```shell\nsegzoo predict {config['name']} {inputs} --output masks/ --overlay\n```"
    )


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


def results_table(config: dict[str, Any]) -> str:
    """What ``segzoo test`` printed on the held-out images, and of each class where there are several."""
    metrics = config["metrics"]
    original, resized = metrics["original"], metrics["resized"]
    rows = ["| metric | at the image's own resolution | at the network's resolution |", "| --- | --- | --- |"]
    rows += [f"| {label(name, config)} | {original[name]:.4f} | {resized[name]:.4f} |" for name in resized]
    by_class = scores_by_class(original)
    if by_class:
        names = list(next(iter(by_class.values())))
        rows += ["", "Class by class, at the image's own resolution:", ""]
        rows += [f"| class | {' | '.join(label(name, config) for name in names)} |", "| --- " * (len(names) + 1) + "|"]
        for number, scores in by_class.items():
            values = " | ".join(f"{scores[name]:.4f}" for name in names)
            rows.append(f"| {config['class_names'][number]} | {values} |")
    return "\n".join(rows) + (
        f"\n\nProtocol: {metrics['protocol']}; {metrics['images']} held-out images. Rows named "
        f"dataset: {metrics['dataset_protocol']}. These are the numbers that `segzoo test` prints."
    )


def scores_by_class(scores: dict[str, float]) -> dict[int, dict[str, float]]:
    """``{1: {"dice": 0.9}, ...}`` of ``{"dice_1": 0.9, ...}``: by mask value, or by channel for multi-label."""
    found: dict[int, dict[str, float]] = {}
    for name, score in scores.items():
        metric, number = class_metric(name)
        if number is not None:
            found.setdefault(number, {})[metric] = score
    return found


def class_metric(name: str) -> tuple[str, int | None]:
    """A metric and the class it is of: ("dice", 1) of "dice_1", ("dice", None) of "dice"."""
    metric, _, number = name.rpartition("_")
    return (metric, int(number)) if number.isdigit() else (name, None)


def label(name: str, config: dict[str, Any]) -> str:
    """A metric's name for people: "dataset_dice" is "Dice (dataset)", "dice_1" is "Dice (lesion)"."""
    metric, number = class_metric(name)
    plain = metric.removeprefix("dataset_")
    words = METRIC_NAMES.get(plain, plain)
    if plain == "hd95":
        words += ", mm" if "patch_size" in config["preprocessing"] else ", pixels"
    if number is not None:
        return f"{words} ({config['class_names'][number]})"
    return words + (" (dataset)" if plain != metric else "")


def hub_licence(licence: str | None) -> str:
    """The Hub's spelling of a licence, which is its SPDX name in small letters, or "other"."""
    known = {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "apache-2.0", "mit", "bsd-3-clause"}
    return licence.lower() if licence and licence.lower() in known else "other"
