"""What all pages are made of. How to add a table, a figure or a sentence:

A **table** is a heading, a note, a list of columns and the rows. A column says what stands above it, the key of its
fields in the CSV file, where a row keeps the value (an attribute, or a function of the row) and the number format.
`kit.columns` has a column for each kind of value; one with an interval over seeds writes mean, standard deviation,
ends, n and the reason for an empty cell by itself.

>>> from leapverify.analysis.over_seeds import summarise
>>> from leapverify.report.kit import columns as c
>>> from leapverify.report.kit.table import table
>>> rows = [("linear", summarise({1: 0.25, 2: 0.75}, n=8)), ("adam", summarise({}, n=0, missing="all declined"))]
>>> shown = [
...     c.key("predictor", lambda row: row[0]),
...     c.spread("accepted, %", "accepted", lambda row: row[1], ".0f", scale=100, of="tries"),
... ]
>>> made = table("rates", "Acceptance", "Over seeds.", shown, rows)
>>> print(made.to_markdown().splitlines()[-1])
| adam | all declined |
>>> made.to_csv().splitlines()[0]
'predictor,accepted_mean,accepted_std,accepted_low,accepted_high,accepted_n,accepted_seeds,accepted_why'

1. Write its heading and note into the `words.toml` of its kind of run (`study/`, `bench/`), under the table's name.
   `{name}` in them is filled by the code, and `{SPREAD}` says what a mean over seeds is.
2. Write a function beside the others there (`study/tables_more.py`, `bench/tables.py`) that returns
   `words("study").table(name, columns, rows)`, and add it to the list of that file: the page then writes it as
   `tables/NAME.csv` and `tables/NAME.md`. Name it in `FOLDED` of `study/page.py` if it is to lie under a figure.
3. Add its name and number of rows to the list in `tests/report/test_report_tables.py`.

A **figure** (`kit.panels`) has a title and a caption in `words.toml`, a legend, and one view for each choice that a
reader can make; `grid` lays small panels over shared axes, `chart` gives a single one axes of its own, and `kit.traces`
draws in them. Without data it has no view and says why.

A **sentence** (`kit.section.SummaryLine`) is a topic and a text, from `words("study").line(entry, *parts, **values)`; a
verdict in it comes from `leapverify.analysis.wording.verdict`, and is 'cannot say' where that is None.
"""
