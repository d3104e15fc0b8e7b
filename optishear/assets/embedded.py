"""Where the embedded model and its text lie: inside the package, no download."""

from pathlib import Path


EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "models" / "embedded"
