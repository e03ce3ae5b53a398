"""The report of a finished study: ten tables, figures, and one offline page, from the run folder's records alone."""

from leapverify.report.page import build_report

__all__ = ["build_report"]
