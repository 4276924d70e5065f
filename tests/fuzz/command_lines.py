"""Command lines that an operating system can pass: any bytes but zero, and options in any order.

No word is a path outside of the case's folder that could be written to, and none starts other processes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.materials import checkpoint, copy_checkpoint, picture
from tests.fuzz.oracle import Order

NO_HUB = {"HF_HUB_OFFLINE": "1"}
ODD = (
    "", " ", "-", "--", "---", "-x", "=", "--=", "\n", "a\nb", "\t", "\x1b[31m", "\udcff", "\udcff\udcfe.png", "\u00e9",
    "\u202e", "\U0001f9e0", "~", "$HOME", "*", "[", "%s", "{}", "{0}", "!!python/object:os.system", "null",
    "true", "nan", "inf", "-inf", "1e400", "-1", "0", "1", "2", "0.5", "9" * 30, "9" * 5000, "0x10", "\u0661",
    "x" * 300, "x" * 100000, ".", "..", "./", "a/b/c", "mine/../mine", "mine", "mine/", "scan.png", "scans",
    "none.png", "weights.ckpt", "x.onnx", "x.pt2", "fifo", "loop", "dangling", "user/repo", "a/b/c/d",
    "lv-unet-busi", "lv_unet", "cmunext_s", "segzoo.data.BUSI", "os.system", "BUSI", "Folder", "http://127.0.0.1:9/x",
    "file:scan.png", "@x", "--help", "-h", "--version", "name with spaces", "COM1", "a" * 255, "\u00e9" * 127 + ".png",
)  # fmt: skip
OPTIONS = {
    "list": ("--json",),
    "info": (),
    "predict": ("--output", "--overlay", "--tta", "--overlap", "--device", "--backend"),
    "export": ("--format", "--precision", "--data", "--size"),
    "verify": (),
    "pull": ("--to", "--revision"),
    "push": ("--version", "--private", "--dry-run"),
    "fit": (
        "--model", "--data", "--data.root", "--data.fold", "--data.batch_size", "--trainer.max_epochs", "--optimizer",
        "--trainer.fast_dev_run", "--ckpt_path", "--config", "-c", "--seed_everything", "--optimizer.lr",
        "--trainer.default_root_dir", "--model.num_classes", "--lr_scheduler", "--print_config",
        "--trainer.barebones", "--trainer.callbacks", "--trainer.accelerator", "--model.x", "--data.x", "--x.y.z",
    ),
    "validate": ("--model", "--data", "--data.root", "--ckpt_path"),
    "test": ("--model", "--data", "--data.root", "--metrics", "--record", "--tta", "--ckpt_path"),
    "nothing": ("--output",),
}  # fmt: skip
USUAL = {
    "predict": ("mine", "scan.png", "--output", "masks", "--device", "cpu"),
    "export": ("mine", "out.onnx"),
    "info": ("mine",),
    "verify": ("mine",),
    "pull": ("mine", "--to", "mirror"),
    "push": ("mine", "me/mine", "--dry-run"),
    "fit": ("--model", "cmunext_s", "--data", "Folder", "--data.root", "scans", "--trainer.fast_dev_run", "1"),
    "test": ("--model", "mine", "--data", "Folder", "--data.root", "scans", "--trainer.logger", "false"),
    "validate": ("--model", "mine", "--data", "Folder", "--data.root", "scans"),
}


@dataclass(frozen=True)
class Words:
    """Words after ``segzoo``, in a folder with a checkpoint, a picture, and what folders may hold besides."""

    words: tuple[str, ...]

    def lay(self, folder: Path) -> Order:
        copy_checkpoint(checkpoint(), folder / "mine")
        Image.fromarray(picture()).save(folder / "scan.png")
        (folder / "scans").mkdir()
        for name in ("a.png", os.fsdecode(b"\xff.png"), "a\nb.png"):
            Image.fromarray(picture()).save(folder / "scans" / name, format="PNG")
        for name in ("weights.ckpt", "x.onnx", "x.pt2"):
            (folder / name).write_bytes(b"PK\x03\x04")
        os.mkfifo(folder / "fifo")
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nowhere")
        return Order(list(self.words), allowed(self.words), environment=NO_HUB)


def allowed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return patterns of what a command line may write: what it names, in the way that its verb has it."""
    verb, rest = (words[0], words[1:]) if words else ("", ())
    named = [os.path.normpath(word.partition("=")[2] if word.startswith("--") else word) for word in rest if word]
    safe = ["".join(f"[{one}]" if one in "*?[" else one for one in name) for name in named]
    if verb == "predict":
        return tuple(f"{name}/*.png" if name != "." else "*.png" for name in safe)
    if verb == "pull":
        return tuple(f"{name}/*" for name in safe)
    if verb == "export":
        return tuple(safe)
    if verb in ("fit", "validate", "test"):
        return ("runs/*", "lightning_logs/*", *(f"{name}/*" for name in safe))
    return ()


words = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(ODD),
    st.binary(max_size=12).map(lambda given: os.fsdecode(given.replace(b"\0", b"")).replace("..", "").lstrip("/~")),
)


@st.composite
def command_lines(draw: st.DrawFn) -> Words:
    """Draw a verb's usual words with some odd ones among them, or odd words alone."""
    verb = draw(st.sampled_from([*OPTIONS]))
    said = list(USUAL.get(verb, ()) if draw(st.integers(0, 3)) else ())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(said)))
        how = draw(st.sampled_from(["replace", "insert", "option", "joined", "remove"]))
        word = draw(words)
        if how == "replace" and at < len(said):
            said[at] = word
        elif how == "remove" and said:
            del said[min(at, len(said) - 1)]
        elif how in ("option", "joined") and OPTIONS[verb]:
            option = draw(st.sampled_from(OPTIONS[verb]))
            said[at:at] = [option, word] if how == "option" else [f"{option}={word}"]
        else:
            said.insert(at, word)
    return Words((verb, *said) if draw(st.integers(0, 9)) else tuple(said))


cases = command_lines()
