"""CMUNeXt's names."""


def cmunext_rules() -> list[tuple[str, str]]:
    """List prefixes of the original CMUNeXt and ours."""
    rules = [(rf"stem\.conv\.{part}", f"stem.{part}") for part in (0, 1)]
    for level in range(5):
        original, stage = rf"encoder{level + 1}", f"encoder.{level}"
        block, ours = rf"{original}\.block\.(\d+)", rf"{stage}.blocks.\1"
        rules += [
            (rf"{block}\.0\.fn\.0", rf"{ours}.depthwise.0"),
            (rf"{block}\.0\.fn\.2", rf"{ours}.depthwise.2"),
            (rf"{block}\.1", rf"{ours}.expand.0"),
            (rf"{block}\.3", rf"{ours}.expand.2"),
            (rf"{block}\.4", rf"{ours}.project.0"),
            (rf"{block}\.6", rf"{ours}.project.2"),
            (rf"{original}\.up\.conv\.0", f"{stage}.widen.0"),
            (rf"{original}\.up\.conv\.1", f"{stage}.widen.1"),
        ]
    for level in range(4):
        number = 5 - level  # the original counts its decoder from the bottom: 5 to 2
        stage = f"decoder.{level}"
        rules += [
            (rf"Up{number}\.up\.1", f"{stage}.reduce.0"),
            (rf"Up{number}\.up\.2", f"{stage}.reduce.1"),
        ]
        for position, layer in zip((0, 2, 3, 5, 6, 8), FUSION_LAYERS, strict=True):
            rules.append((rf"Up_conv{number}\.conv\.{position}", f"{stage}.{layer}"))
    return [*rules, ("Conv_1x1", "head")]


FUSION_LAYERS = ("separate.0", "separate.2", "expand.0", "expand.2", "project.0", "project.2")
