"""Files as text: UTF-8, with or without a byte order mark; what is not is named by its line."""

from pathlib import Path

from optishear.errors import ConfigError


CONVERT = "Convert it."
BOM = b"\xef\xbb\xbf"
"""What some editors write before UTF-8. It says how to read a file and is no part of its text."""


def text_of(path: Path, mend: str = CONVERT) -> str:
    """The whole text of a file; every end of line is `\\n`.

    Raises `ConfigError` where it is not UTF-8, and `OSError` as opening it does.
    """
    return text_in(path.read_bytes(), str(path), mend)


def text_in(content: bytes, where: str, mend: str = CONVERT) -> str:
    """The same of a file's content; `where` names it."""
    text = decoded(content.removeprefix(BOM), where, mend=mend)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(content: bytes, where: str, first_line: int = 1, mend: str = CONVERT) -> str:
    """Bytes as UTF-8; `first_line` is the number that their first line has in the file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = first_line + content[: error.start].count(b"\n")
        raise ConfigError(
            f"{where}, line {line}: is not UTF-8 text (byte 0x{content[error.start]:02x}: "
            f"{error.reason}). {mend}"
        ) from None


def refuse_half_characters(text: str, where: str) -> None:
    """Raises a `ConfigError` for a surrogate without its other half.

    JSON can write one (`\\ud83d`), and so it gets through where only UTF-8 is asked for; nothing
    after that can: no tokenizer, no hash and no file takes it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: holds half a character (\\u{ord(text[error.start]):04x}, a surrogate "
            f"without its other half). Mend it."
        ) from None
