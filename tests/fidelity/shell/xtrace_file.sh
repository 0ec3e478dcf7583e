exec 5> trace; BASH_XTRACEFD=5; set -x; echo traced; set +x; exec 5>&-; cat trace; rm trace
