"""A page about a store, on which a person sees at a glance whether its features make sense."""

from roialign.extraction.report.page import save_report as save_report
