"""What a task that comes with this package adds to its file for the lm-evaluation-harness."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...model.errors_bipe import InputError, InputExistsError
from ..common.checkpoints import Checkpoint
from ..common.figures import pictures
from ..common.files import name_of_file
from .results import TaskResult


if TYPE_CHECKING:
    from matplotlib.figure import Figure


FOLDER = Path(__file__).parent
"""Where the files of the tasks stand, each beside the code that it names: what the harness calls an include path."""


class ShippedTask:
    """One task, whose file says how the harness makes documents and scores answers.

    Args:
        name: in the file.
    """

    settings_class: ClassVar[type]
    """Data class of its settings, which the harness hands to what makes the documents, as `metadata`."""
    axes: ClassVar[dict[str, str]]
    """Names of what a part of it is measured at, and the settings that list all of them."""
    one_figure: ClassVar[bool]
    """Whether all models share a figure."""

    def __init__(self, name: str) -> None:
        self.name = name

    def parts(self, settings: Any) -> list[dict[str, float]]:
        """What is measured one after the other."""
        lists = [getattr(settings, key) for key in self.axes.values()]
        return [dict(zip(self.axes, values, strict=True)) for values in product(*lists)]

    def metadata(self, settings: dict[str, Any], part: dict[str, float]) -> dict[str, Any]:
        """The settings of a part alone.

        Args:
            settings: that [`ShippedTask.prepare`] gives.
            part: what it is measured at.
        """
        return settings | {key: [part[name]] for name, key in self.axes.items()}

    def prepare(self, settings: Any, candidates: Sequence[Checkpoint]) -> dict[str, Any]:
        """All settings, with what they leave open, and a hash of data that they name: what they are resumed with.

        Args:
            settings: of `settings_class`.
            candidates: the models.

        Raises:
            ValueError: settings that no model can be measured with.
        """
        raise NotImplementedError

    def check(self, settings: Any, candidate: Checkpoint) -> None:
        """Raises `ValueError` for a model that cannot be measured with these settings.

        Args:
            settings: that [`ShippedTask.prepare`] gives.
            candidate: the model.
        """
        raise NotImplementedError

    def table(self, results: Sequence[TaskResult]) -> list[list[str]]:
        """The rows of cells, the first one the heading."""
        raise NotImplementedError

    def draw(self, results: Sequence[TaskResult]) -> "Figure":
        """The figure of a model, or of all of them."""
        raise NotImplementedError

    def picture(self, output: Path, model_name: str) -> Path:
        """The PNG file of the figure of a model; the SVG file goes beside it.

        Args:
            output: JSON file of the results.
            model_name: short name of the model.
        """
        parts = [output.stem, self.name.removeprefix("bipe_")]
        if not self.one_figure:
            parts.append(name_of_file(model_name, also="._"))
        return output.with_name("-".join(parts) + ".png")

    def check_pictures(
        self, output: Path, candidates: Sequence[Checkpoint], earlier: Sequence[TaskResult], overwrite: bool
    ) -> None:
        """Checks that figures replace nothing but those of earlier results of the same model.

        Args:
            output: JSON file of the results.
            candidates: the models.
            earlier: results that the file holds.
            overwrite: any figure may be replaced.

        Raises:
            FileExistsError: a figure is there that must not be replaced.
            ValueError: two models would share a figure.
        """
        owners = {self.picture(output, row.name): row.model for row in earlier if row.request == self.name}
        for candidate in candidates:
            picture = self.picture(output, candidate.name)
            for file in pictures(picture):
                if file.exists() and picture not in owners and not overwrite:
                    raise InputExistsError(f"output: {file} exists (--overwrite replaces it)")
            owner = owners.setdefault(picture, candidate.given)
            if owner != candidate.given and not self.one_figure:
                raise InputError(
                    f"models: the figures of {owner} and {candidate.given} would share the file {picture} (measure"
                    " them into two outputs)"
                )
