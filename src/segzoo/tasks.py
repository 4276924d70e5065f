"""What a model is to tell apart: binary, multi-class or multi-label."""


def default_class_names(num_classes: int, multilabel: bool) -> tuple[str, ...]:
    """Names for a task that nobody has named yet."""
    if multilabel:
        return tuple(f"class {index}" for index in range(num_classes))
    return ("background", *(f"class {index}" for index in range(1, max(num_classes, 2))))
