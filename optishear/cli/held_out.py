"""The table of a held-out comparison in the terminal."""

from optishear.cli.console import say_table
from optishear.cli.wording import number_text
from optishear.report.comparison import found_beside, found_in, mode_of, name_of


def say_held_out(rows: list[dict], pick: str) -> None:
    texts = list(rows[0]["texts"])
    for text in texts:
        lines = []
        for row in rows:
            numbers = row["texts"][text]
            error = "" if numbers["error"] is None else f" ± {numbers['error']:.2f}"
            gain = numbers["fewer_nats"].get(found_beside(row, rows) or "")
            name = name_of(row)
            lines.append(
                [
                    name + (f" ({pick})" if row["name"] == found_in(rows) else ""),
                    mode_of(row),
                    number_text("sparsity", row["sparsity"]),
                    f"{numbers['perplexity']:.2f}{error}",
                    "" if gain is None else f"{-gain['mean']:+.4f} ± {gain['error']:.4f}",
                ]
            )
        columns = ["method", "mode", "sparsity", "perplexity", "found is better by (nats/token)"]
        say_table(f"held-out: {text}", columns, lines)


def without_sequences(rows: list[dict]) -> list[dict]:
    return [
        {
            **row,
            "texts": {
                text: {k: v for k, v in numbers.items() if k != "nats"}
                for text, numbers in row["texts"].items()
            },
        }
        for row in rows
    ]
