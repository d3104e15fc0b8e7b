"""A driver asked and told without a search around it."""


def generations(driver, count, measure):
    """What was asked for, a generation an entry."""
    asked = []
    for _ in range(count):
        asked.append(driver.ask())
        driver.tell([measure(row) for row in asked[-1]])
    return asked
