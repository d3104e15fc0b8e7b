"""What is said of a search's finalists wherever its held-out comparison is shown."""

from optishear.search.finalists import Finalists


ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def finalists_text(finalists: Finalists) -> str:
    """`4 finalists re-measured block by block: rank correlation of kl 0.80; the pick was 2nd
    one-shot.`"""
    number, measured = len(finalists.entries), len(finalists.measured)
    text = f"{number} finalist{'s' * (number > 1)} re-measured block by block"
    if measured < number:
        text += f" ({number - measured} failed)"
    said = [f"the pick was {ordinal(finalists.place)} one-shot"]
    if (correlation := finalists.correlation) is not None:
        said.insert(0, f"rank correlation of {finalists.quantity} {correlation:.2f}")
    return f"{text}: {'; '.join(said)}."


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, `11th`."""
    teen = number // 10 % 10 == 1
    return f"{number}{'th' if teen else ENDINGS.get(number % 10, 'th')}"
