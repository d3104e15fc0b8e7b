"""What a program's help begins with."""


def first_line(doc: str | None) -> str:
    """Of a module's docstring, which has to be there."""
    assert doc
    return doc.splitlines()[0]
