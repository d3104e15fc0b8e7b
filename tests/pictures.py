"""What a figure shows: its pixels, its texts with the boxes that they take, and what is wrong."""

import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text


def words(path):
    """What is written in an SVG; matplotlib puts each text before its outlines, as a comment."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), re.DOTALL)


def pictured(figure):
    """The pixels as they are written, and every text that they show with the box that it takes."""
    seen, draw = {}, Text.draw

    def watched(self, renderer, *arguments, **settings):
        draw(self, renderer, *arguments, **settings)
        if self.get_visible() and self.get_text().strip():
            seen[self] = self.get_text(), Text.get_window_extent(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", watched)
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy(), list(seen.values())


def refuse_cut_off(name, pixels):
    """Something is drawn, and nothing of it up to the border."""
    frame = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    assert all((edge == 255).all() for edge in frame), f"{name} touches its border"
    assert pixels.std() > 0.05 * 255


def refuse_collisions(name, pixels, texts):
    """No two texts overlap, and all are on the page."""
    height, width, _ = pixels.shape
    for text, box in texts:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{name}: {text!r} leaves the page"
    for (one, first), (other, second) in combinations(texts, 2):
        assert not first.padded(-1).overlaps(second), f"{name}: {one!r} on {other!r}"
