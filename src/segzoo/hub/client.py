"""Hugging Face Hub through its own client, with quick failures in one sentence each.

The client retries a dead network for half a minute; here the network is tried once, within seconds, before anything is
asked of it.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segzoo.errors import MissingError, MissingFileError, SegzooError, attempt, first_line
from segzoo.hub.transfer import Transfer
from segzoo.limits import Limit

CONNECT_SECONDS, DEADLINE_SECONDS = 6.0, 8.0  # the second is for name servers that do not answer either


class UnreachableError(MissingError):
    """Hub that does not answer, or is not to be asked."""


def may_be_called(repository: str) -> bool:
    """Return whether the Hub allows a repository to have this name; none is called ``./runs``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True


def ask(repository: str, name: str, revision: str, token: str | bool | None) -> None:
    """Ask the Hub once whether it holds a file.

    Raises:
        UnreachableError: it does not answer within `DEADLINE_SECONDS`, or the client is offline.
        MissingError: it has no such repository, revision or file for this user.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, name, revision=revision)
    with explained(repository, revision, name):
        within(DEADLINE_SECONDS, lambda: get_hf_file_metadata(url, token=token, timeout=CONNECT_SECONDS))


def reach() -> None:
    """Ask the Hub for nothing, to see whether it answers.

    Raises:
        UnreachableError: it does not answer within `DEADLINE_SECONDS`, or the client is offline.
    """
    from huggingface_hub import constants, get_session

    with explained(constants.ENDPOINT):
        within(DEADLINE_SECONDS, lambda: get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS))


def download(
    repository: str, name: str, revision: str, *, token: str | bool | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Return a file of a repository in the client's cache, fetched where it is not there yet.

    Raises:
        MissingError: it cannot be fetched, or that would take too long or too much room.
        SegzooError: it cannot be written.
    """
    from huggingface_hub import hf_hub_download

    def fetch(bar: type) -> str:
        return hf_hub_download(
            repository, name, revision=revision, token=token, cache_dir=cache_dir, dry_run=False, tqdm_class=bar
        )

    with explained(repository, revision, name):
        try:
            return Path(Transfer(f"{name} of {repository}").run(fetch))
        except SegzooError as error:
            raise UnreachableError(str(error)) from error


def cached(repository: str, name: str, revision: str, cache_dir: str | Path | None = None) -> Path | None:
    """Return a file of a repository as it lies in the client's cache, or None; nothing is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, cache_dir=cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


def discard(file: Path) -> None:
    """Remove a file from the client's cache, with the content that it links to, so that it will be fetched anew."""
    file.resolve().unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def answer(limit: Limit, name: str, question: Callable[[], Any]) -> Any:
    """Return what the Hub answers; its client waits as long as a byte comes now and then.

    Nobody waits for what takes longer, but the Hub may do it all the same.

    Args:
        limit: of seconds.
        name: of what is asked for, for the sentence.
        question: asks it.

    Raises:
        UnreachableError: it takes longer.
    """
    began = time.monotonic()
    try:
        return within(limit.most, question)
    except TimeoutError as error:
        over = attempt(limit.check, math.ceil(time.monotonic() - began), f"{name} has taken")
        if over is None:  # the client itself gave up
            raise
        raise UnreachableError(str(over)) from error


def within(seconds: float, question: Callable[[], Any]) -> Any:
    """Return the answer to a question.

    A name server that is silent holds up every other time limit.

    Raises:
        TimeoutError: it takes longer.
    """
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.extend((question(), None))
        except BaseException as error:  # told to the thread that waits
            answer.extend((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


@contextmanager
def explained(repository: str, revision: str = "main", name: str = "") -> Iterator[None]:
    """Turn what the client raises into one sentence of ours."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except SegzooError:
        raise
    except GatedRepoError as error:
        raise MissingError(
            f"{repository} is gated: ask its owner for access on its page, then log in with `hf auth login` or give a "
            "token"
        ) from error
    except RepositoryNotFoundError as error:
        raise MissingError(
            f"the Hub has no repository {repository} that you may read; if it is private, log in with `hf auth login` "
            "or give a token"
        ) from error
    except RevisionNotFoundError as error:
        raise MissingError(f"{repository} has no revision {revision!r}; its page on the Hub lists its tags") from error
    except OfflineModeIsEnabled as error:
        raise UnreachableError("HF_HUB_OFFLINE is set") from error
    except LocalEntryNotFoundError as error:
        raise UnreachableError("the Hub does not answer") from error
    except EntryNotFoundError as error:
        raise MissingFileError(
            f"{repository} at {revision} has no file {name}, so it is no segzoo checkpoint"
        ) from error
    except HFValidationError as error:
        raise SegzooError(f"{repository!r} is no name of a repository: it must be like user/repo") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise SegzooError(
                f"the Hub does not let you do this in {repository} ({status}); log in with `hf auth login` or give a "
                "token that may"
            ) from error
        raise UnreachableError(f"the Hub answers with an error ({first_line(error)})") from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise UnreachableError(f"the Hub does not answer as it should ({first_line(error)})") from error
        raise SegzooError(
            f"{name or repository} could not be written to the cache ({error.strerror}); free some space, or "
            "set HF_HOME or cache_dir to a disk that has some"
        ) from error
    except Exception as error:  # the transport's own, which differ between versions of the client
        where = constants.ENDPOINT
        raise UnreachableError(f"{where} cannot be reached ({type(error).__name__}: {first_line(error)})") from error
