trap 'echo "line $LINENO"' DEBUG
:

:
