"""`python -m stages.benchmark` writes the published schema of report.json anew."""

from stages.results.benchmark import SCHEMA_FILE, schema_text

SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
