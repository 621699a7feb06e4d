"""Which way answers best, measured over HTTP on the user's own questions.

    config ──> asking ──> scores ──> verdict ──> report
              (HTTP)     (metrics)  (statistics)

Only `asking` talks to the service; everything after it is pure and can be repeated from the kept answers.
"""
