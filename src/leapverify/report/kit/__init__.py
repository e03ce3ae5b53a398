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

1. Write a function in the folder of its kind of run (`study/tables_more.py`, `bench/tables.py`, `race/`) that returns
   the table, and add it to the list of that file.
2. The page writes every table of the list as `tables/NAME.csv` and `tables/NAME.md`; name it in `page.py` if it is to
   stand, folded, under a figure.
3. Add its name and number of rows to the list in `tests/report/test_report_tables.py`.

A **figure** (`kit.panels`) has a title, a caption, a legend, and one view for each choice that a reader can make;
`grid` lays small panels over shared axes, `chart` gives a single one axes of its own. Without data it has no view and
says why. A **sentence** (`kit.section.SummaryLine`) is a topic and a text; a verdict in it comes from
`leapverify.analysis.wording.verdict`, and is 'cannot say' where that is None.
"""
