"""What a release does with the checkpoints: pin them in the package, and put them on the Hub.

    python .github/release.py pin               write src/segzoo/published.json from model_cards/
    python .github/release.py push [--dry-run]  push every folder of model_cards/ to the zoo's organisation

``push`` needs a token that may write there (HF_TOKEN); what is published already is left as it is, so a push that broke
off is finished by running it again.
"""

import argparse
import json
from pathlib import Path

from segzoo.checkpoint import CONFIG
from segzoo.hub import PINS, organisation, published
from segzoo.publishing import pin, plan_upload, push

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"


def write_pins() -> None:
    """Write the package's list of published checkpoints."""
    PINS.write_text(json.dumps(pin(MODEL_CARDS), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{PINS.name}: {', '.join(published())}")


def push_all(dry_run: bool) -> None:
    """Push every checkpoint, once all of them are found to be as the package pins them."""
    if pin(MODEL_CARDS) != published():
        raise SystemExit(f"{PINS.name} is not that of model_cards/; run `python .github/release.py pin` and commit it")
    folders = sorted(path.parent for path in MODEL_CARDS.glob(f"*/{CONFIG}"))
    for upload in [plan_upload(folder, f"{organisation()}/{folder.name}") for folder in folders]:
        print(upload)
        if not dry_run:
            print(f"  published at {push(upload)}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pin", help="write src/segzoo/published.json")
    pushing = commands.add_parser("push", help="push every checkpoint")
    pushing.add_argument("--dry-run", action="store_true", help="show what would go up, and stop")
    options = parser.parse_args()
    if options.command == "pin":
        write_pins()
    else:
        push_all(options.dry_run)


if __name__ == "__main__":
    main()
