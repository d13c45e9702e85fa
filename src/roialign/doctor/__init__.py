"""The doctor: why RoIs are zero or wrong, and what to type."""

from roialign.doctor import findings, report
from roialign.doctor.diagnose import diagnose as diagnose
from roialign.doctor.diagnose import likely_cause
from roialign.doctor.findings import Diagnosis as Diagnosis
from roialign.doctor.findings import Finding as Finding
from roialign.doctor.findings import Fix as Fix
from roialign.doctor.findings import Report as Report
from roialign.doctor.saved import save_call as save_call
from roialign.doctor.watch import watch as watch
from roialign.ops import notice

findings.presentation = findings.Presentation(report.as_text, report.as_html, report.save)
notice.explain = likely_cause
