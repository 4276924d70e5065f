"""Licences in the Hugging Face Hub's spelling, and what they allow."""

import re
from collections.abc import Iterable

# The Hub's own names of licences: https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = """
apache-2.0 mit isc zlib unlicense wtfpl bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 afl-3.0 artistic-2.0
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 mpl-2.0 ms-pl ncsa osl-3.0 postgresql lppl-1.3c ofl-1.1
gpl-2.0 gpl-3.0 lgpl-2.1 lgpl-3.0 agpl-3.0
cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nd-4.0
cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 c-uda odbl odc-by pddl unknown
"""
RESEARCH_ONLY = "licenseref-research-and-education-only"
ALLOWS = {  # by the Hub's name, that of Creative Commons without its version
    "apache-2.0": "any use; keep its notices and say what you changed",
    **dict.fromkeys(("mit", "bsd-2-clause", "bsd-3-clause"), "any use; keep its notice"),
    "cc0-1.0": "any use, without conditions",
    "cc-by": "any use, with credit",
    "cc-by-sa": "any use, with credit; what is made from it is shared under the same licence",
    "cc-by-nd": "any use, with credit; no changed copies are shared",
    "cc-by-nc": "no commercial use; with credit",
    "cc-by-nc-sa": "no commercial use; with credit; what is made from it is shared under the same licence",
    "cc-by-nc-nd": "no commercial use; with credit; no changed copies are shared",
    RESEARCH_ONLY: "research and education only",
}


def hub_licence(licence: str | None) -> str:
    """Return the Hub's spelling of a licence: "other" for one it does not know and for several, "unknown" for none."""
    plain = re.sub(r"\s+", "-", (licence or "unknown").strip().lower())
    plain = re.sub(r"-(only|or-later)$", "", plain) if "gpl" in plain else plain
    plain = re.sub(r"^(odbl|odc-by|pddl|c-uda)-1\.0$", r"\1", plain)
    return plain if plain in HUB_LICENCES.split() else "other"


def licence_name(licence: str) -> str:
    """Return a name as the Hub wants it for a licence that it does not know: small letters, digits, dots and dashes."""
    plain = licence.lower().replace("licenseref-", "").replace(" + ", "-and-")
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")


def joined(licences: Iterable[str | None]) -> str | None:
    """Return all of them in one line, each once, as "a + b"; None where none is known."""
    return " + ".join(sorted({one for licence in licences if licence for one in licence.split(" + ")})) or None


def allows(licence: str | None) -> str:
    """Return what a licence, or each of several, allows in a few words; nothing where these are not certain."""
    words = {}
    for one in (licence or "").split(" + "):
        plain = one.lower() if one.lower() == RESEARCH_ONLY else hub_licence(one)
        words[one] = ALLOWS.get(re.sub(r"^(cc-by[a-z-]*)-\d\.\d$", r"\1", plain), "")
    if len(words) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{one}: {said}" for one, said in words.items() if said)
