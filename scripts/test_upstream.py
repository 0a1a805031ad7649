"""Runs transformers' own common tests on the models of this package.

    python scripts/test_upstream.py -k alibi

`ModelTesterMixin` and `ConfigTester` are in the source distribution of transformers, not in what pip installs. That of
the installed version is downloaded once, into build/upstream, and the two files are taken out of it; what they import
and it lacks is made here. Our side, with every skip and its reason, is tests/upstream/common_tests.py. Arguments go to
pytest.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
DOWNLOADS = Path("build", "upstream")
PACKAGE = "transformers_tests"

UPSTREAM_FILES = ("test_modeling_common.py", "test_configuration_common.py")

# What those two import and the source distribution lacks.
MADE_FILES = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/__init__.py": "",
    # A value for each field that all configurations have, none of them the default: `ConfigTester` sets and reads
    # them. A test on our side says when transformers has added a field.
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "id2label": {0: "only"},
    "is_encoder_decoder": True,
    "label2id": {"only": 0},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
    "transformers_version": "0.0.1",
}
""",
}


class CountsByClass:
    """A pytest plugin that counts how many tests of each class passed, failed and were skipped, and by whom."""

    outcomes = ("passed", "skipped by transformers", "skipped by us", "failed")

    def __init__(self) -> None:
        self.outcome_of: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            outcome = "failed"
        elif report.skipped:
            # the prefix that common_tests.py gives to its reasons
            is_ours = report.longrepr[2].startswith("Skipped: bipe_hf: ")
            outcome = "skipped by us" if is_ours else "skipped by transformers"
        else:
            outcome = "passed"
        # a test reports more than once: setup, subtests, call
        known = self.outcome_of.get(report.nodeid, 0)
        self.outcome_of[report.nodeid] = max(known, self.outcomes.index(outcome))

    def print(self) -> None:
        counts: dict[str, Counter] = {}
        for node_id, outcome in self.outcome_of.items():
            counts.setdefault(node_id.split("::")[1], Counter())[self.outcomes[outcome]] += 1
        for name, of_class in counts.items():
            print(f"{name}: " + ", ".join(f"{of_class[outcome]} {outcome}" for outcome in self.outcomes))


def download(release: str) -> Path:
    """The source distribution of this release of transformers, downloaded where it is not there yet."""
    archive = DOWNLOADS / f"transformers-{release}.tar.gz"
    if not archive.exists():
        print(f"downloading the source distribution of transformers {release}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", "transformers", "--no-deps"]
        command += ["--no-build-isolation", "--dest", str(DOWNLOADS), f"transformers=={release}"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0 or not archive.exists():
            last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
            sys.exit(
                f"pip could not download the source distribution of transformers {release} "
                f"(offline, or no published version?): {last_line}"
            )
    return archive


def unpack(archive: Path, release: str) -> Path:
    """Writes the package of tests anew, and returns the folder to import it from."""
    files = {name: text.encode() for name, text in MADE_FILES.items()}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Only contents are read, so no path, link or mode of the archive reaches the disk.
            for name in UPSTREAM_FILES:
                files[name] = tar.extractfile(f"transformers-{release}/tests/{name}").read()
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        sys.exit(f"{archive} is damaged or lacks the common tests: {error}. Delete it to download it again.")
    folder = DOWNLOADS / f"transformers-{release}"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder.resolve()


def main(pytest_arguments: list[str]) -> int:
    os.chdir(ROOT)
    release = version("transformers")
    folder = unpack(download(release), release)
    sys.path.insert(0, str(folder))
    # By environment because one of the tests starts pytest again, without arguments.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # Our own options refuse marks that we have not registered, and those of transformers are not.
    os.environ["PYTEST_ADDOPTS"] = "-o addopts= -W ignore::pytest.PytestUnknownMarkWarning"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"  # models this small only wait for threads
    arguments = ["-q", "-rs", "--durations=10", *pytest_arguments, "tests/upstream/common_tests.py"]
    counts = CountsByClass()
    exit_code = pytest.main(arguments, plugins=[counts])
    counts.print()
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
