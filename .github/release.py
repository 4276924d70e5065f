"""Steps of a release with the checkpoints: pin them in the package, and put them on the Hub.

    python .github/release.py pin               write src/segzoo/published.json and the cards from model_cards/
    python .github/release.py check TAG         whether the repository is ready to be released under this tag
    python .github/release.py push [--dry-run]  push every folder of model_cards/ to the zoo's organisation

``push`` needs a token that may write there (HF_TOKEN); what is published already is left as it is, so a push that broke
off is finished by running it again.
"""

import argparse
import json
from pathlib import Path

import segzoo
from segzoo.checkpoints.encoder import read_stored
from segzoo.checkpoints.encoder_card import card_of
from segzoo.checkpoints.names import CARD, CONFIG
from segzoo.checkpoints.pins import PINS, organisation, published
from segzoo.hub.publish import pin, plan_upload, push

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"
PIN_FIRST = "run `python .github/release.py pin` and commit what it writes"


def checkpoint_folders() -> list[Path]:
    """Return every checkpoint of the repository."""
    return sorted(path.parent for path in MODEL_CARDS.glob(f"*/{CONFIG}"))


def write_pins() -> None:
    """Write the package's list of published checkpoints, their cards, which say what is published, and their hashes."""
    write_list()
    for folder in checkpoint_folders():
        (folder / CARD).write_text(card_of(read_stored(folder)), encoding="utf-8", newline="\n")
    write_list()
    print(f"{PINS.name}: {', '.join(published())}")


def write_list() -> None:
    """Write the package's list of published checkpoints."""
    PINS.write_text(json.dumps(pin(MODEL_CARDS), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    published.cache_clear()


def check_pins() -> None:
    """Refuse to go on where a checkpoint is not the one that the package pins, or a card not that of its config."""
    for folder in checkpoint_folders():
        if (folder / CARD).read_text(encoding="utf-8") != card_of(read_stored(folder)):
            raise segzoo.SegzooError(f"{folder / CARD} is not the card of its {CONFIG}; {PIN_FIRST}")
    if pin(MODEL_CARDS) != published():  # which has the cards' hashes
        raise segzoo.SegzooError(f"{PINS.name} is not that of model_cards/; {PIN_FIRST}")


def check(tag: str) -> None:
    """Refuse a tag that is not the package's version, and pins or cards that are not the checkpoints'."""
    if tag != f"v{segzoo.__version__}":
        raise segzoo.SegzooError(f"the tag is {tag} and the package's version {segzoo.__version__}; make them agree")
    check_pins()
    print(f"{tag}: {len(published())} checkpoints, as pinned")


def push_all(dry_run: bool) -> None:
    """Push every checkpoint, once all of them are found to be as the package pins them."""
    check_pins()
    for upload in [plan_upload(folder, f"{organisation()}/{folder.name}") for folder in checkpoint_folders()]:
        print(upload)
        if not dry_run:
            print(f"  published at {push(upload)}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pinning = commands.add_parser("pin", help="write src/segzoo/published.json and the cards")
    pinning.set_defaults(run=lambda options: write_pins())
    checking = commands.add_parser("check", help="whether the repository is ready to be released")
    checking.add_argument("tag", help="v and the version, such as v0.1.0")
    checking.set_defaults(run=lambda options: check(options.tag))
    pushing = commands.add_parser("push", help="push every checkpoint")
    pushing.add_argument("--dry-run", action="store_true", help="show what would go up, and stop")
    pushing.set_defaults(run=lambda options: push_all(options.dry_run))
    return parser


def main() -> None:
    """Run one of them."""
    options = build_parser().parse_args()
    try:
        options.run(options)
    except segzoo.SegzooError as error:
        raise SystemExit(f"release.py: {error}") from None


if __name__ == "__main__":
    main()
