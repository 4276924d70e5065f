"""Downloads that end: the Hub's client waits as long as a server sends a byte now and then, and takes what it sends."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from segzoo import limits
from segzoo.errors import SegzooError

STEP = 100_000  # bytes that have to come within `limits.DOWNLOAD_SILENCE`
LOOK = 0.2  # seconds between two looks at what has come


class Transfer:
    """Download under way, watched from outside.

    Args:
        name: of what is fetched, for the sentence.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.written = 0  # bytes, unpacked where they come packed
        self.responses: list[Any] = []  # of this download, which is tried again where it breaks off
        self.over: SegzooError | None = None

    def run(self, download: Callable[[type], Any]) -> Any:
        """Return what a download returns.

        Args:
            download: called, in a thread of its own, with a class for the client's progress bar.

        Raises:
            SegzooError: it takes longer, sends more or sends more slowly than is taken.
        """
        answer: list[Any] = []

        def work() -> None:
            try:
                with self.heard():
                    answer.extend((download(self.progress_bar()), None))
            except BaseException as error:  # told to the thread that waits
                answer.extend((None, error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            self.watch(thread)
        except BaseException as error:
            self.stop(error)
            raise
        if self.over is not None:
            raise self.over
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def watch(self, thread: threading.Thread) -> None:
        """Wait for the thread, for as long as enough comes.

        Raises:
            SegzooError: too little does, or too much.
        """
        start = mark = time.monotonic()
        come = 0
        while thread.is_alive():
            thread.join(LOOK)
            now = time.monotonic()
            if self.come() - come >= STEP:
                come, mark = self.come(), now
            limits.DOWNLOAD_SILENCE.check(round(now - mark), f"{self.name} has taken")
            limits.DOWNLOAD_SECONDS.check(round(now - start), f"{self.name} has taken")
            self.require_room(self.come())

    def come(self) -> int:
        """Return the bytes that have come so far, as far as the client tells."""
        return max(self.written, sum(response.num_bytes_downloaded for response in list(self.responses)))

    def require_room(self, count: int) -> None:
        """Refuse a file of so many bytes, where that is too large."""
        limits.DOWNLOAD_BYTES.check(count, f"{self.name} has at least")

    def stop(self, reason: BaseException) -> None:
        """End the download at the next byte that comes; nobody waits for its thread any more."""
        self.over = reason if isinstance(reason, SegzooError) else SegzooError(f"{self.name} was not fetched whole")
        for response in list(self.responses):
            with suppress(Exception):  # the thread may be closing it, too
                response.close()

    def go_on(self) -> None:
        """Raise in the download's own thread what has ended it."""
        if self.over is not None:
            raise self.over

    # ---- what the client tells

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear of every response that the client gets in this thread, before its body."""
        from huggingface_hub import get_session

        thread = threading.get_ident()

        def note(response: Any) -> None:
            if threading.get_ident() == thread:
                self.go_on()
                self.responses.append(response)

        hooks = get_session().event_hooks["response"]
        hooks.append(note)
        try:
            yield
        finally:
            hooks.remove(note)

    def progress_bar(self) -> type:
        """Return a class for the client's progress bar that notes what is written."""
        from huggingface_hub.utils import tqdm

        transfer = self

        class Bar(tqdm):
            monitor_interval = 0  # or every such class starts a thread that stays

            def __init__(self, *arguments: Any, **options: Any) -> None:
                transfer.require_room(options.get("total") or 0)
                super().__init__(*arguments, **options)

            def update(self, n: float | None = 1) -> Any:
                transfer.go_on()
                transfer.written += int(n or 0)
                transfer.require_room(transfer.written)
                return super().update(n)

        return Bar
