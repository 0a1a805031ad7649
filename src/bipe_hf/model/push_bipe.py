"""What happens to a folder before transformers pushes it."""

import os
from collections.abc import Callable
from typing import Any, ClassVar


class PushMixin:
    """Lets a model card be written into what is pushed.

    It comes before transformers' `PushToHubMixin`. What a card says does not travel with checkpoints: where this
    package is not installed, transformers' own card goes along.
    """

    write_card: ClassVar[Callable[..., None] | None] = None
    """Set by the package. Called with the folder and the repository, `token` and `revision` of the push."""

    def _upload_modified_files(
        self, working_dir: str | os.PathLike, repo_id: str, files_timestamps: dict[str, float], **kwargs: Any
    ) -> Any:
        if self.write_card is not None:  # transformers has put its own card in, or the one that the repository has
            self.write_card(working_dir, repo_id, token=kwargs.get("token"), revision=kwargs.get("revision"))
        return super()._upload_modified_files(working_dir, repo_id, files_timestamps, **kwargs)
