exec 3>&1 > captured; echo hidden; exec >&3 3>&-; echo shown; cat captured; rm captured
