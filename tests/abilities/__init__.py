"""What each operator can do besides computing: the table of docs/abilities.md, made and tested here."""
