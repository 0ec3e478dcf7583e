# fidelity: skip=context -- traces in a context start with one more +
exec 5> trace; BASH_XTRACEFD=5; set -x; echo traced; set +x; exec 5>&-; cat trace; rm trace
