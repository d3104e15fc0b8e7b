"""What all figures of the seven questions share."""

from pathlib import Path

from optishear.report import style


RESULTS = Path(__file__).parents[2] / "results"
MARKS = "osD^vPX*"
COLOURS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.GREY)
