"""The fair race between methods: a configuration, rows made by the program's own commands, a judge, a report.

Nothing here knows molecules or shapes; a domain brings its methods, its judge and its pictures (`domain.Domain`).
"""
